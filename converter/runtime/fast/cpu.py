"""Whether this machine has the kernels: a CPU with AVX-512 VNNI, and the library built for it. Imports no PyTorch."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

#: What the kernels are compiled for, as Linux names it.
NEEDED = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "fma", "f16c"})


def cpu_flags() -> frozenset[str]:
    """What this CPU has, as Linux names it; nothing on other systems."""
    if sys.platform != "linux":
        return frozenset()
    text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


@functools.cache
def kernel_library() -> Path | None:
    """The library of kernels; None where it was not built (no C compiler at install) or this CPU cannot run it."""
    built = sorted(Path(__file__).parent.glob("_kernels*.so"))
    return built[0] if built and cpu_flags() >= NEEDED else None
