"""Builds the kernels of precision "fast" where a C compiler is at hand; without them it runs in fp32.

They are plain C without Python's headers, loaded by `converter.runtime.fast.kernels`. OpenMP is compiled for but not
linked: they use the one PyTorch brings, and so its threads.
"""

import platform
import sys

from setuptools import Extension, setup

NATIVE = "converter/runtime/fast/native"
FLAGS = "-O3 -fopenmp -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma -mf16c -mprefer-vector-width=512"

kernels = Extension(
    "converter.runtime.fast._kernels",
    [f"{NATIVE}/{name}.c" for name in ("attention", "norm", "product")],
    depends=[f"{NATIVE}/vector.h"],
    extra_compile_args=FLAGS.split(),
    libraries=["m"],
    optional=True,
)

setup(ext_modules=[kernels] if sys.platform == "linux" and platform.machine() == "x86_64" else [])
