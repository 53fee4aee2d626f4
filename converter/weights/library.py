"""The libraries in C beside this module, and the cores that run them; where none was built, NumPy computes the same."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray


@functools.cache
def library(name: str) -> ctypes.CDLL | None:
    """Return a library of setup.py by its name; None if it was not built."""
    file = next(iter(sorted(Path(__file__).parent.glob(f"{name}.*so"))), None)
    return None if file is None else ctypes.CDLL(str(file))


def pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    """Return the address of an array's elements, which must be contiguous, for a call."""
    return ctypes.c_void_p(array.ctypes.data)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
