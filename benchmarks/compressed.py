"""Compressed packages beside the fp16 one of the same weights, in our runtime: as ratios, whatever machine this is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.peers import Peer
from benchmarks.peers.ours import package
from benchmarks.rounds import Figures, measure
from benchmarks.workload import Workload
from converter.folder import ModelFolder
from converter.options import ConvertOptions

#: A conversion's name in the tables -> its options.
FORMS: dict[str, dict[str, Any]] = {
    "6-bit palettes": {"bits": 6},
    "4-bit palettes of 32 channels": {"bits": 4, "group_size": 32, "target": "macOS15"},
    "8-bit integers": {"bits": 8, "quantization": "linear"},
    "4-bit integers of 32 channels": {"bits": 4, "quantization": "linear", "group_size": 32, "target": "macOS15"},
}
PRECISIONS = ("fast", "fp32")
_FP16 = "fp16"


def _compressed(work: Workload, name: str) -> Path:
    """Return the workload's package in a compressed form; a missing one is converted."""
    from converter.conversion.convert import convert

    size = (work.width, work.height)
    folder = work.derived(f"{name.replace(' ', '-')}-{work.width}x{work.height}")
    if not folder.exists():
        options = ConvertOptions(sizes=(size,), batches=(work.batch,), verify=False, **FORMS[name])
        convert(work.checkpoint, folder, options)
    model = ModelFolder.open(folder)
    return model.path / model.packages(work.network, *size)[0].path


def _stored(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("weight.bin"))


def _ratios(figures: Sequence[Figures], paths: dict[str, Path]) -> str:
    """Return a table of a precision's figures, over those of the fp16 package."""
    (plain,) = (f for f in figures if f.peer == _FP16)

    def row(f: Figures) -> list[str]:
        pairs = [
            (f.run_s, plain.run_s),
            (min(f.runs_s), min(plain.runs_s)),
            (min(f.ready_s), min(plain.ready_s)),
            (f.own_bytes, plain.own_bytes),
            (f.resident_bytes, plain.resident_bytes),
            (_stored(paths[f.peer]), _stored(paths[_FP16])),
        ]
        return [f.peer, *(f"{one / other:.2f}" for one, other in pairs)]

    head = ["over fp16", "step, median", "step, least", "ready", "memory", "with files", "stored"]
    return table.table(head, [row(f) for f in figures])


def compare(work: Workload, *, rounds: int, runs: int) -> dict[str, Any]:
    """Measure, print a table for each precision, and return all figures."""
    paths = {_FP16: package(work), **{name: _compressed(work, name) for name in FORMS}}
    results = {}
    for precision in PRECISIONS:
        peers = [Peer(name, "ours", "torch", {"precision": precision, "path": str(p)}) for name, p in paths.items()]
        figures = measure(work, peers, rounds=rounds, runs=runs)
        print(f"\n{precision}\n\n{_ratios(figures, paths)}\n", flush=True)
        results[precision] = [asdict(f) for f in figures]
    return results
