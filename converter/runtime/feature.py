"""What goes into a network and comes out of it, and the check of what a caller gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from converter.errors import AnemoneError


class PackageError(AnemoneError):
    """A package is missing, damaged, or not an ML program."""


class UnsupportedOperator(AnemoneError):
    """A program uses operators this runtime does not have."""


class InputError(AnemoneError, ValueError):
    """An input of a prediction is missing, unknown, or of the wrong shape or type."""


@dataclass(frozen=True)
class Feature:
    """An input or output of a network."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Network(Protocol):
    """A loaded package."""

    @property
    def inputs(self) -> Mapping[str, Feature]:
        """The inputs by name."""

    @property
    def outputs(self) -> Mapping[str, Feature]:
        """The outputs by name."""

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network once; raises InputError before anything runs."""


def features(description: Any) -> dict[str, Feature]:
    """The multi-array features of a model description's ``input`` or ``output``."""
    found = {}
    for feature in description:
        array = feature.type.multiArrayType
        if feature.type.WhichOneof("Type") != "multiArrayType":
            raise PackageError(f"{feature.name} is not a multi-array; image and dictionary features are not supported")
        dtypes = {array.FLOAT16: np.float16, array.FLOAT32: np.float32, array.INT32: np.int32, array.DOUBLE: np.float64}
        if array.dataType not in dtypes:
            raise PackageError(f"{feature.name} has array type {array.dataType}, which is not supported")
        found[feature.name] = Feature(feature.name, tuple(array.shape), np.dtype(dtypes[array.dataType]))
    return found


def checked(inputs: Mapping[str, NDArray[Any]], declared: Mapping[str, Feature]) -> dict[str, NDArray[Any]]:
    """The inputs in their declared types; raises InputError naming what does not fit.

    Any floating type is taken for a floating feature (it is rounded to the declared one); integers must be integers.
    """
    unknown = sorted(set(inputs) - set(declared))
    missing = sorted(set(declared) - set(inputs))
    if unknown or missing:
        what = [f"unknown: {', '.join(unknown)}"] if unknown else []
        what += [f"missing: {', '.join(missing)}"] if missing else []
        raise InputError(f"inputs {'; '.join(what)}; accepted: {', '.join(declared)}")
    found = {}
    for name, feature in declared.items():
        array = inputs[name]
        if not isinstance(array, np.ndarray):
            raise InputError(f"{name} is a {type(array).__name__}; a NumPy array {list(feature.shape)} is accepted")
        if array.shape != feature.shape:
            raise InputError(f"{name} has shape {list(array.shape)}; {list(feature.shape)} is accepted")
        if array.dtype.kind != feature.dtype.kind:
            raise InputError(f"{name} is {array.dtype}; {feature.dtype} is accepted")
        found[name] = array.astype(feature.dtype, copy=False)
    return found
