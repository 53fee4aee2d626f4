"""The measured process: loads one peer, runs it, and writes its times and its output into a folder.

    python -m benchmarks.measured_process measure PEER WORKLOAD BEGUN RUNS FOLDER
    python -m benchmarks.measured_process prepare PEER WORKLOAD

PEER and WORKLOAD are JSON; BEGUN is the monotonic clock at the start of the process, so that the times include imports.
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
    timed_runs = [step(inputs) for _ in range(runs)] or [first]
    if first.output is not None:
        np.save(folder / "output.npy", first.output)
    times = {"ready_s": ready, "first_s": to_first, "runs_s": [t.seconds for t in timed_runs]}
    (folder / "times.json").write_text(json.dumps(times))


def main() -> None:
    """Prepare or measure, depending on the arguments."""
    what, peer, workload = sys.argv[1], Peer.from_json(sys.argv[2]), Workload.from_json(sys.argv[3])
    if what == "prepare":
        peer.runner().prepare(workload, **peer.settings)
    else:
        begun, runs, folder = sys.argv[4:]
        _measure(peer, workload, float(begun), int(runs), Path(folder))


if __name__ == "__main__":
    main()
