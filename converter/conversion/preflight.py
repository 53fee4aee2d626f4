"""Checks of free disk space and memory before a conversion begins."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil

from converter.errors import MemoryShortage, SpaceError

#: Bytes that the process takes apart from tensors, with PyTorch and diffusers loaded for verification (0.6 GB measured).
_BASE = 7 * 2**27
#: Copies of a layer's weights in fp32 at the same time: the reference's and the package's, each with the one it is made from.
_COPIES = 4


def require_space(folder: Path, weights: int) -> None:
    """Raise SpaceError unless ``folder`` has space for ``weights`` bytes and the programs around them."""
    free = shutil.disk_usage(folder).free
    if free < weights * 1.1 + 2**24:
        raise SpaceError(
            f"the model needs {weights * 1.1 / 2**20 + 16:.0f} MB in {folder}; {free / 2**20:.0f} MB are free"
        )


def require_memory(largest: int) -> None:
    """Raise MemoryShortage unless a conversion whose largest tensor has ``largest`` elements fits into the free memory."""
    needed, free = _BASE + _COPIES * 4 * largest, psutil.virtual_memory().available
    if free < needed:
        raise MemoryShortage(
            f"converting needs {needed / 2**20:.0f} MB of memory; {free / 2**20:.0f} MB are available. Close other "
            "programs and try again"
        )
