"""Measures and plots our UNet's step time and memory over image size and batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers import Peer
from benchmarks.rounds import measure
from benchmarks.workload import Workload
from converter.conversion.planning import make_plan
from converter.conversion.programs import write_network
from converter.options import ConvertOptions
from converter.sources.source import open_source

#: Sides of a image in pixels, for a UNet that was trained at 512.
SIDES = (256, 384, 512, 640, 768, 1024)
BATCHES = (1, 2, 3, 4)


@dataclass(frozen=True)
class Point:
    """One size and batch: the median step, and the process's peak memory without mapped file pages and with them."""

    side: int
    batch: int
    step_s: float
    own_bytes: int
    resident_bytes: int


def _packages(workload: Workload, sides: Sequence[int]) -> dict[tuple[int, int], Path]:
    """Return a package for each side and batch, with shared weights; missing ones are written."""
    folder = workload.derived("scaling")
    paths = {(side, batch): folder / f"{side}-{batch}.mlpackage" for side in sides for batch in BATCHES}
    if all(path.exists() for path in paths.values()):
        return paths
    folder.mkdir(exist_ok=True)
    sizes = tuple((side, side) for side in sides)
    plan = make_plan(open_source(workload.checkpoint), ConvertOptions(sizes=sizes, verify=False))
    # A plan's UNet has one or two rows, for images; its programs can have any number.
    plan = replace(plan, batches=BATCHES)
    for package in write_network("unet", plan, folder).packages:
        assert package.width is not None
        (folder / package.path).rename(paths[package.width, package.batch])
    return paths


def scaling(workload: Workload, peer: Peer, *, runs: int) -> list[Point]:
    """Return a point for each size and batch; sizes relate to the workload's as `SIDES` to 512."""
    sides = [side * workload.width // 512 for side in SIDES]
    points = []
    for (side, batch), path in _packages(workload, sides).items():
        scaled = replace(workload, network="unet", width=side, height=side, batch=batch)
        on_package = replace(peer, settings=peer.settings | {"path": str(path)})
        (figures,) = measure(scaled, [on_package], rounds=1, runs=runs)
        points.append(Point(side, batch, figures.run_s, figures.own_bytes, figures.resident_bytes))
    return points


def plot(points: Sequence[Point], path: Path, title: str) -> None:
    """Plot seconds and gigabytes over the side, with a line for each batch."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (time, memory) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for batch in sorted({point.batch for point in points}):
        line = sorted((p for p in points if p.batch == batch), key=lambda point: point.side)
        sides = [point.side for point in line]
        time.plot(sides, [point.step_s for point in line], marker="o", label=f"batch {batch}")
        memory.plot(sides, [point.own_bytes / 1e9 for point in line], marker="o", label=f"batch {batch}")
    for axes, what in ((time, "seconds a step"), (memory, "peak memory, GB")):
        axes.set_xlabel("side of the image, pixels")
        axes.set_title(what)
        axes.set_xticks(sorted({point.side for point in points}))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    time.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
