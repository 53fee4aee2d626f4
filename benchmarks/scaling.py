"""Our UNet's step and memory against the picture's size and the batch; as a plot, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers import Peer
from benchmarks.rounds import measure
from benchmarks.workload import Workload
from converter.conversion.plan import make_plan
from converter.conversion.programs import write_network
from converter.options import ConvertOptions
from converter.sources.source import open_source

#: Sides of a picture in pixels, for a UNet that was trained at 512.
SIDES = (256, 384, 512, 640, 768, 1024)
BATCHES = (1, 2, 3, 4)


@dataclass(frozen=True)
class Point:
    """One size and batch: the median step, and the process's most memory without mapped file pages and with them."""

    side: int
    batch: int
    step_s: float
    own_bytes: int
    resident_bytes: int


def _packages(workload: Workload, sides: Sequence[int]) -> dict[tuple[int, int], Path]:
    """A package for each side and batch, all on one weights file, written where they are missing."""
    folder = workload.beside("scaling")
    paths = {(side, batch): folder / f"{side}-{batch}.mlpackage" for side in sides for batch in BATCHES}
    if all(path.exists() for path in paths.values()):
        return paths
    folder.mkdir(exist_ok=True)
    sizes = tuple((side, side) for side in sides)
    plan = make_plan(open_source(workload.checkpoint), ConvertOptions(sizes=sizes, verify=False))
    # Plans are for pictures, whose UNet takes one or two rows; the programs take any number.
    plan = replace(plan, batches=BATCHES)
    for package in write_network("unet", plan, folder):
        assert package.width is not None
        (folder / package.path).rename(paths[package.width, package.batch])
    return paths


def scaling(workload: Workload, peer: Peer, *, runs: int) -> list[Point]:
    """A point for each of the sizes, as far above and below the workload's as `SIDES` are of 512, and each batch."""
    sides = [side * workload.width // 512 for side in SIDES]
    points = []
    for (side, batch), path in _packages(workload, sides).items():
        one = replace(workload, network="unet", width=side, height=side, batch=batch)
        at = replace(peer, settings=peer.settings | {"path": str(path)})
        (found,) = measure(one, [at], rounds=1, runs=runs)
        points.append(Point(side, batch, found.run_s, found.own_bytes, found.resident_bytes))
    return points


def plot(points: Sequence[Point], path: Path, title: str) -> None:
    """Two plots side by side: seconds and gigabytes against the side, a line for each batch."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (time, memory) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for batch in sorted({point.batch for point in points}):
        line = sorted((p for p in points if p.batch == batch), key=lambda point: point.side)
        sides = [point.side for point in line]
        time.plot(sides, [point.step_s for point in line], marker="o", label=f"batch {batch}")
        memory.plot(sides, [point.own_bytes / 1e9 for point in line], marker="o", label=f"batch {batch}")
    for axes, what in ((time, "seconds a step"), (memory, "GB at its most")):
        axes.set_xlabel("side of the picture, pixels")
        axes.set_title(what)
        axes.set_xticks(sorted({point.side for point in points}))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    time.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
