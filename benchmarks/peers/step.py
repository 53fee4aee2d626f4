"""One run of a loaded peer, timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from benchmarks.workload import Arrays


@dataclass(frozen=True)
class Run:
    """The time and output of a run; the output is None if the peer does not take our inputs."""

    seconds: float
    output: NDArray[Any] | None


#: Runs a workload's inputs once.
Step = Callable[[Arrays], Run]


def timed(run: Callable[[Arrays], NDArray[Any]]) -> Step:
    """Return a step that times a function from arrays to an array."""

    def step(inputs: Arrays) -> Run:
        begun = time.perf_counter()
        output = run(inputs)
        return Run(time.perf_counter() - begun, output)

    return step
