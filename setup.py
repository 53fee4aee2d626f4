"""Builds what is written in C where a compiler is at hand: the kernels of precision "fast", without which it runs in
fp32, and the search for palettes and the decoding of compressed weights, which NumPy does more slowly.

The kernels are plain C without Python's headers, loaded by `converter.runtime.fast.kernels`, and built twice: with AVX-512
VNNI, and in a portable form that tests use on every machine. OpenMP is compiled for but not linked: they use the one
PyTorch brings, and so its threads. Neither build may join products and sums by itself, so that both compute the same
bits.
"""

import platform
import sys

from setuptools import Extension, setup

NATIVE = "converter/runtime/fast/native"
COMMON = ["-O3", "-ffp-contract=off"] + (["-fopenmp"] if sys.platform == "linux" else [])
VNNI = [f"-m{name}" for name in ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni", "fma", "f16c")]
VNNI.append("-mprefer-vector-width=512")


def _library(name: str, flags: list[str]) -> Extension:
    return Extension(
        f"converter.runtime.fast.{name}",
        [f"{NATIVE}/{source}.c" for source in ("attention", "norm", "product")],
        depends=[f"{NATIVE}/{header}.h" for header in ("vector", "portable")],
        extra_compile_args=COMMON + flags,
        libraries=["m"],
        optional=True,
    )


builds = [_library("_kernels_portable", ["-DPORTABLE"])] if sys.platform in ("linux", "darwin") else []
if sys.platform == "linux" and platform.machine() == "x86_64":
    builds.append(_library("_kernels", VNNI))

builds += [
    Extension(
        f"converter.weights._{name}",
        [f"converter/weights/native/{name}.c"],
        extra_compile_args=["-O3", "-ffp-contract=off", "-fno-trapping-math"],
        optional=True,
    )
    for name in ("lookup", "palette")
]
setup(ext_modules=builds)
