"""One run of a loaded peer, timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from benchmarks.workload import Arrays


@dataclass(frozen=True)
class Taken:
    """How long a run took, and what it gave; None where a peer takes no numbers of ours, so that none compare."""

    seconds: float
    output: NDArray[Any] | None


#: Runs a workload's inputs once.
Step = Callable[[Arrays], Taken]


def timed(run: Callable[[Arrays], NDArray[Any]]) -> Step:
    """A step that is its call, from arrays to an array."""

    def step(inputs: Arrays) -> Taken:
        begun = time.perf_counter()
        output = run(inputs)
        return Taken(time.perf_counter() - begun, output)

    return step
