"""Run a Core ML package: through Core ML on a Mac, elsewhere by compiling its ML program for this CPU.

>>> network = load(Path("unet.mlpackage"))
>>> network.predict({"sample": sample, "timestep": timestep, "encoder_hidden_states": states})["noise_pred"]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, get_args

from converter.runtime.chunks import Chunked, chunk_paths
from converter.runtime.fast.library import kernel_library
from converter.runtime.feature import Feature, InputError, Network, PackageError, UnsupportedOperator
from converter.runtime.program import declared_features, default_function, functions, stages

__all__ = [
    "COMPUTE_UNITS",
    "PRECISIONS",
    "Chunked",
    "ComputeUnit",
    "Feature",
    "InputError",
    "Network",
    "PackageError",
    "Precision",
    "UnsupportedOperator",
    "functions",
    "load",
    "on_core_ml",
    "weight_bytes",
]

ComputeUnit = Literal["CPU_AND_NE", "ALL", "CPU_AND_GPU", "CPU_ONLY"]
COMPUTE_UNITS: tuple[str, ...] = get_args(ComputeUnit)

Precision = Literal["fast", "fp32", "fp16", "ane"]
PRECISIONS: tuple[str, ...] = get_args(Precision)


def on_core_ml(precision: str) -> bool:
    """Return whether Core ML runs networks of that precision on this machine."""
    return sys.platform == "darwin" and precision == "fast"


def weight_bytes(package: Path) -> int:
    """Return how many bytes of memory a package's weights, those of all its chunks, take at precision "fast".

    On a Mac that is the stored size. With kernels it is at most that: image networks in eight bits and text encoders in
    fp32 take as much together. Without kernels all weights are fp32 and take twice as much.
    """
    factor = 1 if sys.platform == "darwin" or kernel_library() is not None else 2
    # Weights in merged.bin take the place of others, which are smaller if they are compressed.
    largest = (max(_stored(chunk, "weight.bin"), _stored(chunk, "merged.bin")) for chunk in chunk_paths(package))
    return factor * sum(largest)


def _stored(package: Path, file: str) -> int:
    return sum(each.stat().st_size for each in package.rglob(file))


def load(
    path: Path | str, *, function: str | None = None, compute_units: str = "CPU_AND_NE", precision: str = "fast"
) -> Network:
    """Load the package, pipeline or compiled model at ``path``; for a network in chunks, the path of the first.

    ``precision`` fast is Core ML on a Mac and our engine for this CPU elsewhere. fp32 (the reference), fp16 (every result
    rounded) and ane (with the Neural Engine's reported limits as well: it shows overflow, not the engine's own error)
    run operation by operation on any machine. ``function`` is one of `functions`; None is the package's default.
    ``compute_units`` is one of COMPUTE_UNITS and is for Core ML only. Raises PackageError if the package cannot be read
    and UnsupportedOperator if this machine cannot run it; a prediction raises neither.
    """
    if compute_units not in COMPUTE_UNITS:
        raise ValueError(f"compute_units is {compute_units!r}; accepted: {', '.join(COMPUTE_UNITS)}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; accepted: {', '.join(PRECISIONS)}")
    path = Path(path)
    if on_core_ml(precision):
        from converter.runtime.coreml import CoreMLNetwork

        name = function or default_function(path)
        networks = [CoreMLNetwork(chunk, name, compute_units) for chunk in chunk_paths(path)]
        return networks[0] if len(networks) == 1 else Chunked(networks)
    if models := stages(path):
        return Chunked([_compiled(model, None, precision) for model in models], declared_features(path)[1])
    return _compiled(path, function, precision)


def _compiled(path: Path, function: str | None, precision: str) -> Network:
    if precision == "fast":
        from converter.runtime.fast.network import compile_fast

        return compile_fast(path, function)
    from converter.runtime.mil import MILNetwork

    return MILNetwork(path, function, precision=precision)
