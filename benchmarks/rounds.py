"""Peers measured in turns, each in a process of its own: ABCABC, so that a machine that drifts drifts for all."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.measure import cost
from benchmarks.peers import REFERENCE, Peer
from benchmarks.workload import Workload
from converter.verification.verify import psnr


@dataclass
class Figures:
    """What was measured of one peer over all rounds.

    runs_s: each timed run, after one that warms up (of whole pictures the only run there is). ready_s and first_s:
    from the start of the process until the peer is loaded, and until its first run is done.
    own_bytes, resident_bytes: the most memory of any round, without mapped file pages and with them.
    psnr_db: of the output against the reference's; None where there are none to compare.
    """

    peer: str
    runs_s: list[float] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    own_bytes: int = 0
    resident_bytes: int = 0
    psnr_db: float | None = None

    @property
    def run_s(self) -> float:
        """The median run."""
        return median(self.runs_s)


def _subject(*words: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "benchmarks.subject", *words]


def _once(peer: Peer, workload: Workload, runs: int, figures: Figures) -> np.ndarray | None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        begun = str(time.monotonic())
        found = cost(_subject("measure", peer.to_json(), workload.to_json(), begun, str(runs), scratch))
        times = json.loads((folder / "times.json").read_text())
        output = np.load(folder / "output.npy") if (folder / "output.npy").is_file() else None
    figures.runs_s += times["runs_s"]
    figures.ready_s.append(times["ready_s"])
    figures.first_s.append(times["first_s"])
    figures.own_bytes = max(figures.own_bytes, found.own_bytes)
    figures.resident_bytes = max(figures.resident_bytes, found.resident_bytes)
    return output


def prepare(workload: Workload, peers: Sequence[Peer]) -> None:
    """Write what peers run from where it is missing, each in a process that then ends."""
    for peer in peers:
        if peer.prepared:
            subprocess.run(_subject("prepare", peer.to_json(), workload.to_json()), check=True, stdout=sys.stderr)


def measure(workload: Workload, peers: Sequence[Peer], *, rounds: int, runs: int) -> list[Figures]:
    """Figures of every peer, in their order; ``runs`` timed ones a round after one that warms up.

    The reference's output is kept beside the checkpoint, so that another time it need not be measured again.
    """
    figures = {peer.name: Figures(peer.name) for peer in peers}
    outputs: dict[str, np.ndarray] = {}
    for number in range(rounds):
        for peer in peers:
            print(f"{workload.name}: round {number + 1} of {rounds}, {peer.name}", file=sys.stderr, flush=True)
            output = _once(peer, workload, runs if peer.runs is None else peer.runs, figures[peer.name])
            if output is not None:
                outputs[peer.name] = output
    kept = workload.beside("reference") / f"{workload.name}.npy"
    if REFERENCE in outputs:
        kept.parent.mkdir(exist_ok=True)
        np.save(kept, outputs[REFERENCE])
    if kept.is_file():
        expected = np.load(kept)
        for name, output in outputs.items():
            if name != REFERENCE:
                figures[name].psnr_db = psnr(output, expected.astype(np.float64))
    return list(figures.values())
