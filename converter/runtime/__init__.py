"""Run a Core ML package: through Core ML on a Mac, by translating its ML program to PyTorch elsewhere.

>>> network = load(Path("unet.mlpackage"))
>>> network.predict({"sample": sample, "timestep": timestep, "encoder_hidden_states": states})["noise_pred"]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, get_args

from converter.runtime.feature import Feature, InputError, Network, PackageError, UnsupportedOperator

__all__ = [
    "COMPUTE_UNITS",
    "ComputeUnit",
    "Feature",
    "InputError",
    "Network",
    "PackageError",
    "UnsupportedOperator",
    "load",
]

ComputeUnit = Literal["CPU_AND_NE", "ALL", "CPU_AND_GPU", "CPU_ONLY"]
COMPUTE_UNITS: tuple[str, ...] = get_args(ComputeUnit)


def load(path: Path, *, function: str = "main", compute_units: str = "CPU_AND_NE") -> Network:
    """The package at ``path``, or on a Mac the compiled model, ready to predict.

    ``compute_units`` is one of COMPUTE_UNITS and matters on a Mac only. Raises PackageError where the package cannot
    be read and UnsupportedOperator where this machine cannot run it; never half-way through a prediction.
    """
    if compute_units not in COMPUTE_UNITS:
        raise ValueError(f"compute_units is {compute_units!r}; accepted: {', '.join(COMPUTE_UNITS)}")
    if sys.platform == "darwin":
        from converter.runtime.coreml import CoreMLNetwork

        return CoreMLNetwork(path, function, compute_units)
    if path.suffix == ".mlmodelc":
        raise PackageError(f"{path} is a compiled model, which runs on a Mac only; its .mlpackage is needed here")
    from converter.runtime.mil import MILNetwork

    return MILNetwork(path, function)
