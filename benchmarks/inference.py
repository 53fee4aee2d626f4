"""How fast and light a network runs, beside the libraries people run it with, on the same weights.

    python -m benchmarks.inference --only unet --peers ours-fast,openvino-fp32,diffusers-fp32

Weights are random, in the real configurations. Every peer runs in a process of its own, one after another, in turns.
Tables go to standard output, all figures to build/inference.json. A peer that is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.flops import flops
from benchmarks.peers import OURS, PEERS
from benchmarks.products import measured
from benchmarks.rounds import Figures, measure, prepare
from benchmarks.scaling import plot, scaling
from benchmarks.weights import CHECKPOINTS, workload
from benchmarks.workload import Workload

_ROOT = Path(__file__).resolve().parent.parent
_BUILD = _ROOT / "build"

Found = dict[str, Any]


def _compared(work: Workload, given: argparse.Namespace, what: str) -> list[Figures]:
    """The peers that have the workload and are installed, measured; ``what`` is what a run is called."""
    peers = [PEERS[name] for name in given.peers if work.network in PEERS[name].networks]
    for peer in peers:
        if not peer.installed:
            print(f"{peer.name} is left out: {peer.package} is not installed")
    installed = [peer for peer in peers if peer.installed]
    prepare(work, installed)
    # A whole picture is long enough to be its own warm-up.
    rounds, runs = (given.pictures, 0) if work.network == "txt2img" else (given.rounds, given.runs)
    figures = measure(work, installed, rounds=rounds, runs=runs)
    print(f"\n{table.peers(figures, what)}\n", flush=True)
    return figures


def _ours(figures: Sequence[Figures]) -> Figures | None:
    return next((one for one in figures if one.peer == OURS), None)


def _unet(work: Workload, given: argparse.Namespace) -> Found:
    from benchmarks.peers.ours import package
    from converter.runtime.program import read_model

    figures = _compared(work, given, "step")
    found: Found = {"peers": [asdict(one) for one in figures]}
    if ours := _ours(figures):
        path = package(work)
        operations, rates = flops(read_model(path).mlProgram), measured()
        weights = sum(file.stat().st_size for file in path.rglob("weight.bin"))
        print(table.share(rates, operations, ours.run_s))
        print(f"\n{OURS} takes {ours.own_bytes / weights:.2f} times the weights' {weights / 1e9:.2f} GB\n", flush=True)
        found |= {"flops": operations, "products": rates, "weights_bytes": weights}
    return found


def _vae(work: Workload, given: argparse.Namespace) -> Found:
    figures = _compared(replace(work, network="vae_decoder"), given, "decoding")
    return {"peers": [asdict(one) for one in figures]}


def _txt2img(work: Workload, given: argparse.Namespace) -> Found:
    figures = _compared(replace(work, network="txt2img", steps=given.steps), given, "picture")
    return {"peers": [asdict(one) for one in figures]}


def _scaling(work: Workload, given: argparse.Namespace) -> Found:
    points = scaling(work, PEERS[OURS], runs=1)
    print(f"\n{table.scaled(points)}\n", flush=True)
    path = _ROOT / "docs" / "scaling.png" if given.size == "sd15" else _BUILD / "scaling.png"
    plot(points, path, f"One step of the UNet ({given.size}) on {os.cpu_count()} cores")
    return {"points": [asdict(point) for point in points]}


SECTIONS: dict[str, Callable[[Workload, argparse.Namespace], Found]] = {
    "unet": _unet,
    "vae": _vae,
    "txt2img": _txt2img,
    "scaling": _scaling,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=CHECKPOINTS, default="sd15")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="one section; may be given several times")
    parser.add_argument("--peers", help=f"names with commas between them, of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=3, help="how often each peer has its turn")
    parser.add_argument("--runs", type=int, default=3, help="timed runs a turn, after one that warms up")
    parser.add_argument("--pictures", type=int, default=1, help="how many whole pictures each paints")
    parser.add_argument("--steps", type=int, default=20, help="steps of a whole picture")
    parser.add_argument("--folder", type=Path, default=_BUILD / "bench", help="where exports are kept between runs")
    given = parser.parse_args()
    given.peers = given.peers.split(",") if given.peers else list(PEERS)
    if unknown := sorted(set(given.peers) - set(PEERS)):
        parser.error(f"--peers has {', '.join(unknown)}; accepted: {', '.join(PEERS)}")
    given.folder.mkdir(parents=True, exist_ok=True)
    _BUILD.mkdir(exist_ok=True)
    work = workload(given.size, given.folder)
    out = _BUILD / "inference.json"
    found = json.loads(out.read_text()) if out.is_file() else {}
    for name in given.only or SECTIONS:
        print(f"## {name}, {given.size}, {work.width}x{work.height}", flush=True)
        found[f"{given.size} {name}"] = SECTIONS[name](work, given)
        out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
