"""The process that is measured: loads one peer, runs it, and leaves its times and its output in a folder.

    python -m benchmarks.subject measure PEER WORKLOAD BEGUN RUNS FOLDER
    python -m benchmarks.subject prepare PEER WORKLOAD

PEER and WORKLOAD are JSON; BEGUN is the monotonic clock as the process was started, so that a peer's imports count.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.peers import Peer
from benchmarks.workload import Workload


def _measure(peer: Peer, workload: Workload, begun: float, runs: int, folder: Path) -> None:
    inputs = workload.inputs()
    step = peer.runner().load(workload, **peer.settings)
    ready = time.monotonic() - begun
    first = step(inputs)
    to_first = time.monotonic() - begun
    taken = [step(inputs) for _ in range(runs)] or [first]
    if first.output is not None:
        np.save(folder / "output.npy", first.output)
    times = {"ready_s": ready, "first_s": to_first, "runs_s": [t.seconds for t in taken]}
    (folder / "times.json").write_text(json.dumps(times))


def main() -> None:
    """Prepare or measure, as the command line says."""
    what, peer, workload = sys.argv[1], Peer.of_json(sys.argv[2]), Workload.of_json(sys.argv[3])
    if what == "prepare":
        peer.runner().prepare(workload, **peer.settings)
    else:
        begun, runs, folder = sys.argv[4:]
        _measure(peer, workload, float(begun), int(runs), Path(folder))


if __name__ == "__main__":
    main()
