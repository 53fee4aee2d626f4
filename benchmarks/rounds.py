"""Measures peers in turns (ABCABC), each in its own process, so that a change of the machine's speed affects all."""

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
    """The measurements of one peer over all rounds.

    runs_s: each timed run, after a warm-up run (whole images have a single run). ready_s, first_s: from the start of the
        process until the peer is loaded, and until its first run ends.
    own_bytes, resident_bytes: the greatest memory of all rounds, without mapped file pages and with them.
    psnr_db: the output against the reference's; None without outputs to compare.
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
        """The median of the runs."""
        return median(self.runs_s)


def _command(*words: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "benchmarks.measured_process", *words]


def _once(peer: Peer, workload: Workload, runs: int, figures: Figures) -> np.ndarray | None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        begun = str(time.monotonic())
        measured = cost(_command("measure", peer.to_json(), workload.to_json(), begun, str(runs), scratch))
        times = json.loads((folder / "times.json").read_text())
        output = np.load(folder / "output.npy") if (folder / "output.npy").is_file() else None
    figures.runs_s += times["runs_s"]
    figures.ready_s.append(times["ready_s"])
    figures.first_s.append(times["first_s"])
    figures.own_bytes = max(figures.own_bytes, measured.own_bytes)
    figures.resident_bytes = max(figures.resident_bytes, measured.resident_bytes)
    return output


def prepare(workload: Workload, peers: Sequence[Peer]) -> None:
    """Write the missing files that peers run from, each in its own process."""
    for peer in peers:
        if peer.prepared:
            subprocess.run(_command("prepare", peer.to_json(), workload.to_json()), check=True, stdout=sys.stderr)


def measure(workload: Workload, peers: Sequence[Peer], *, rounds: int, runs: int) -> list[Figures]:
    """Return the figures of every peer, in their order; each round has ``runs`` timed runs after a warm-up run.

    The reference's output is saved next to the checkpoint, so that it need not be measured again.
    """
    figures = {peer.name: Figures(peer.name) for peer in peers}
    outputs: dict[str, np.ndarray] = {}
    for number in range(rounds):
        for peer in peers:
            print(f"{workload.name}: round {number + 1} of {rounds}, {peer.name}", file=sys.stderr, flush=True)
            output = _once(peer, workload, runs if peer.runs is None else peer.runs, figures[peer.name])
            if output is not None:
                outputs[peer.name] = output
    reference = workload.derived("reference") / f"{workload.name}.npy"
    if REFERENCE in outputs:
        reference.parent.mkdir(exist_ok=True)
        np.save(reference, outputs[REFERENCE])
    if reference.is_file():
        expected = np.load(reference)
        for name, output in outputs.items():
            if name != REFERENCE:
                figures[name].psnr_db = psnr(output, expected.astype(np.float64))
    return list(figures.values())
