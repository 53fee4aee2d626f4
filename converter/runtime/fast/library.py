"""Find the libraries of kernels: one built for AVX-512 VNNI, one in plain C for any CPU. This imports no PyTorch.

Precision "fast" uses the first where the CPU has AVX-512 VNNI, and fused PyTorch in fp32 elsewhere. The portable one
computes the same bits, so that tests of the kernels run on every machine. Only tests use it: a convolution
that takes PyTorch 54 ms in fp32 (320 channels, 64x64 pixels, two cores) takes AVX-512 VNNI 10 ms and plain C 440.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Literal

Build = Literal["vnni", "portable"]
_FILES: dict[Build, str] = {"vnni": "_kernels.*so", "portable": "_kernels_portable.*so"}
#: The CPU features that the vnni build needs, by Linux's names.
NEEDED = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "fma", "f16c"})


def cpu_flags() -> frozenset[str]:
    """Return this CPU's features by Linux's names; empty on other systems."""
    if sys.platform != "linux":
        return frozenset()
    text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def built_library(build: Build = "vnni") -> Path | None:
    """Return the library's file; None if it was not built (the installation found no C compiler)."""
    return next(iter(sorted(Path(__file__).parent.glob(_FILES[build]))), None)


@functools.cache
def kernel_library(build: Build = "vnni") -> Path | None:
    """Return the library's file; None if it was not built or this CPU cannot run it."""
    return built_library(build) if build == "portable" or cpu_flags() >= NEEDED else None


def describe() -> str:
    """Return which kernels precision "fast" uses on this machine: "AVX-512 VNNI", or why it uses none."""
    if sys.platform == "darwin":
        return "none (Core ML runs networks on a Mac)"
    if built_library() is None:
        return "not built"
    return "none (this CPU has no AVX-512 VNNI)" if kernel_library() is None else "AVX-512 VNNI"
