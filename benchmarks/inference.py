"""Measures the time and memory of networks in our runtime and in other libraries, on the same weights.

    python -m benchmarks.inference --only unet --peers ours-fast,openvino-fp32,diffusers-fp32

Weights are random, in the real configurations. Every peer runs in its own process; the peers take turns. Tables go to
standard output, all figures to build/inference.json. Peers that are not installed are skipped and listed.
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
from benchmarks.compressed import compare
from benchmarks.flops import flops
from benchmarks.peers import OURS, PEERS
from benchmarks.products import measured
from benchmarks.rounds import Figures, measure, prepare
from benchmarks.scaling import plot, scaling
from benchmarks.weights import CHECKPOINTS, workload
from benchmarks.workload import Workload

_ROOT = Path(__file__).resolve().parent.parent
_BUILD = _ROOT / "build"

Results = dict[str, Any]


def _compared(work: Workload, args: argparse.Namespace, what: str) -> list[Figures]:
    """Measure the installed peers that have the workload; ``what`` is the name of a run."""
    peers = [PEERS[name] for name in args.peers if work.network in PEERS[name].networks]
    for peer in peers:
        if not peer.installed:
            print(f"{peer.name} is skipped: {peer.package} is not installed")
    installed = [peer for peer in peers if peer.installed]
    prepare(work, installed)
    # A whole image takes long enough to need no warm-up.
    rounds, runs = (args.images, 0) if work.network == "txt2img" else (args.rounds, args.runs)
    figures = measure(work, installed, rounds=rounds, runs=runs)
    print(f"\n{table.peers(figures, what)}\n", flush=True)
    return figures


def _ours(figures: Sequence[Figures]) -> Figures | None:
    return next((f for f in figures if f.peer == OURS), None)


def _unet(work: Workload, args: argparse.Namespace) -> Results:
    from benchmarks.peers.ours import package
    from converter.runtime.program import read_model

    figures = _compared(work, args, "step")
    results: Results = {"peers": [asdict(f) for f in figures]}
    if ours := _ours(figures):
        path = package(work)
        operations, rates = flops(read_model(path).mlProgram), measured()
        weights = sum(file.stat().st_size for file in path.rglob("weight.bin"))
        print(table.share(rates, operations, ours.run_s))
        print(f"\n{OURS} takes {ours.own_bytes / weights:.2f} times the weights' {weights / 1e9:.2f} GB\n", flush=True)
        results |= {"flops": operations, "products": rates, "weights_bytes": weights}
    return results


def _vae(work: Workload, args: argparse.Namespace) -> Results:
    figures = _compared(replace(work, network="vae_decoder"), args, "decoding")
    return {"peers": [asdict(f) for f in figures]}


def _txt2img(work: Workload, args: argparse.Namespace) -> Results:
    figures = _compared(replace(work, network="txt2img", steps=args.steps), args, "image")
    return {"peers": [asdict(f) for f in figures]}


def _scaling(work: Workload, args: argparse.Namespace) -> Results:
    points = scaling(work, PEERS[OURS], runs=1)
    print(f"\n{table.scaled(points)}\n", flush=True)
    path = _ROOT / "docs" / "scaling.png" if args.size == "sd15" else _BUILD / "scaling.png"
    plot(points, path, f"One step of the UNet ({args.size}) on {os.cpu_count()} cores")
    return {"points": [asdict(point) for point in points]}


def _compressed(work: Workload, args: argparse.Namespace) -> Results:
    prepare(work, [PEERS[OURS]])
    return compare(work, rounds=args.rounds, runs=args.runs)


SECTIONS: dict[str, Callable[[Workload, argparse.Namespace], Results]] = {
    "unet": _unet,
    "vae": _vae,
    "txt2img": _txt2img,
    "compressed": _compressed,
    "scaling": _scaling,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=CHECKPOINTS, default="sd15")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="only this section; may be repeated")
    parser.add_argument("--peers", help=f"names separated by commas, of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each peer")
    parser.add_argument("--runs", type=int, default=3, help="timed runs in a turn, after a warm-up run")
    parser.add_argument("--images", type=int, default=1, help="whole images that each peer makes")
    parser.add_argument("--steps", type=int, default=20, help="steps of a whole image")
    parser.add_argument(
        "--folder", type=Path, default=_BUILD / "bench", help="the folder that keeps exports between runs"
    )
    args = parser.parse_args()
    args.peers = args.peers.split(",") if args.peers else list(PEERS)
    if unknown := sorted(set(args.peers) - set(PEERS)):
        parser.error(f"--peers has {', '.join(unknown)}; accepted: {', '.join(PEERS)}")
    args.folder.mkdir(parents=True, exist_ok=True)
    _BUILD.mkdir(exist_ok=True)
    work = workload(args.size, args.folder)
    out = _BUILD / "inference.json"
    results = json.loads(out.read_text()) if out.is_file() else {}
    for name in args.only or SECTIONS:
        print(f"## {name}, {args.size}, {work.width}x{work.height}", flush=True)
        results[f"{args.size} {name}"] = SECTIONS[name](work, args)
        out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
