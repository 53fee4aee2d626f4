"""Measure load time, run time and memory of a network in a child process."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converter.devices.child import in_child
from converter.devices.comparison import likely_inputs
from converter.runtime import load

#: ru_maxrss is in bytes on macOS and in kilobytes on Linux (getrusage's manual pages).
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Timing:
    """Times of a network in seconds, and the most memory of its process in bytes, mapped files included.

    load: on a Mac the first load of a package includes compiling it for the device. first: the first prediction.
    step: the second. finite: whether all numbers of its outputs are.
    """

    load: float
    first: float
    step: float
    memory: int
    finite: bool


def _timed(path: Path, function: str, units: str, precision: str) -> Timing:
    if sys.platform == "darwin":
        import coremltools  # noqa: F401  (takes 2.3 s, which are not the network's)
    inputs = likely_inputs(path, function)
    start = time.perf_counter()
    network = load(path, function=function, compute_units=units, precision=precision)
    loaded = time.perf_counter()
    outputs = network.predict(inputs)
    first = time.perf_counter()
    network.predict(inputs)
    second = time.perf_counter()
    return Timing(
        loaded - start,
        first - loaded,
        second - first,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT,
        all(bool(np.isfinite(array).all()) for array in outputs.values()),
    )


def timed(path: Path, function: str = "main", units: str = "CPU_AND_NE", precision: str = "fast") -> Timing:
    """Return the times of loading a function of a package like the server does and of running it twice on random inputs.

    Raises ChildDied if its process ends, and WorkFailed with the message of what it raises.
    """
    return in_child(_timed, path, function, units, precision)
