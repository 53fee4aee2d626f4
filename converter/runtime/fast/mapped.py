"""Memory-mapped weights, given back to the file once they were read."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray


def forget(array: NDArray[Any]) -> None:
    """Let go of the memory that a memory-mapped array's pages take; they are read from the file again if need be.

    Arrays that are not memory-mapped stay as they are.
    """
    base: Any = array
    while isinstance(base, np.ndarray) and not isinstance(base.base, mmap.mmap):
        base = base.base
    if not isinstance(base, np.ndarray) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    mapping: Any = base.base
    begin = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (begin + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        mapping.madvise(mmap.MADV_DONTNEED, first, last - first)
