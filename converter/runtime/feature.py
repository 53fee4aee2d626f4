"""Inputs and outputs of networks, and the check of a caller's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from converter.errors import AnemoneError
from converter.weights.dtypes import BY_ARRAY

#: The least and the greatest size of an axis; None means no greatest.
Range = tuple[int, int | None]


class PackageError(AnemoneError):
    """A package is missing, damaged, or not an ML program."""


class UnsupportedOperator(AnemoneError):
    """A program uses operators that this runtime does not have."""


class InputError(AnemoneError, ValueError):
    """An input of a prediction is missing, unknown, or of the wrong shape or type."""


@dataclass(frozen=True)
class Feature:
    """An input, an output or a state of a network.

    shape: its shape; the default one if it accepts several.
    shapes: the accepted shapes, if they are enumerated.
    ranges: the accepted sizes of each axis, if they are ranges.
    default: the value that fills an optional input; None if the input is required.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    shapes: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[Range, ...] = ()
    default: float | None = None

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Return whether an array may have that shape."""
        if self.ranges:
            return len(shape) == len(self.ranges) and all(
                low <= size and (high is None or size <= high)
                for size, (low, high) in zip(shape, self.ranges, strict=True)
            )
        return shape in (self.shapes or (self.shape,))

    @property
    def accepted(self) -> str:
        """The accepted shapes, for messages."""
        if self.ranges:
            sizes = (
                str(low) if low == high else f"{low} or more" if high is None else f"{low} to {high}"
                for low, high in self.ranges
            )
            return f"[{', '.join(sizes)}]"
        return " or ".join(str(list(shape)) for shape in self.shapes or (self.shape,))


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


def _default(feature: Any, array: Any) -> float | None:
    if not feature.type.isOptional:
        return None
    kind = array.WhichOneof("defaultOptionalValue")
    return 0.0 if kind is None else float(getattr(array, kind))


def features(description: Any) -> dict[str, Feature]:
    """Return the multi-array features of a model description's ``input``, ``output`` or ``state``; raises PackageError."""
    by_name = {}
    for feature in description:
        kind = feature.type.WhichOneof("Type")
        if kind not in ("multiArrayType", "stateType"):
            raise PackageError(
                f"{feature.name} is of {kind or 'unknown type'}; only multi-arrays are supported, not images or dictionaries"
            )
        array = feature.type.multiArrayType if kind == "multiArrayType" else feature.type.stateType.arrayType
        dtypes = {
            getattr(array, word.upper()): dtype.numpy for word, dtype in BY_ARRAY.items() if dtype.numpy is not None
        }
        if array.dataType not in dtypes:
            raise PackageError(f"{feature.name} has array type {array.dataType}, which is not supported")
        shapes = tuple(tuple(int(n) for n in s.shape) for s in array.enumeratedShapes.shapes)
        # Both of Core ML's bounds are inclusive; an upper bound below zero means no limit.
        ranges = tuple(
            (int(r.lowerBound), None if r.upperBound < 0 else int(r.upperBound)) for r in array.shapeRange.sizeRanges
        )
        shape = tuple(int(n) for n in array.shape) or (shapes[0] if shapes else tuple(low for low, _ in ranges))
        by_name[feature.name] = Feature(
            feature.name, shape, dtypes[array.dataType], shapes, ranges, _default(feature, array)
        )
    return by_name


def error_text(error: Exception) -> str:
    """Return the text of an error in reading a package's file: an OSError names the file, others their kind."""
    return str(error) if isinstance(error, OSError) else repr(error)


def check_inputs(inputs: Mapping[str, NDArray[Any]], declared: Mapping[str, Feature]) -> dict[str, NDArray[Any]]:
    """Return the inputs in their declared types, with defaults filled in; raises InputError naming a wrong input.

    A floating feature accepts any floating type and rounds it to its own; an integer feature accepts integers only.
    """
    if not isinstance(inputs, Mapping):
        raise InputError(f"inputs are a {type(inputs).__name__}; a dict of NumPy arrays by name is accepted")
    unknown = sorted(map(str, set(inputs) - set(declared)))
    missing = sorted(name for name, f in declared.items() if f.default is None and name not in inputs)
    if unknown or missing:
        problems = [f"unknown: {', '.join(unknown)}"] if unknown else []
        problems += [f"missing: {', '.join(missing)}"] if missing else []
        raise InputError(f"inputs {'; '.join(problems)}; accepted: {', '.join(declared)}")
    arrays = {}
    for name, feature in declared.items():
        if name not in inputs:
            arrays[name] = np.full(feature.shape, feature.default, feature.dtype)
            continue
        array = inputs[name]
        if not isinstance(array, np.ndarray):
            raise InputError(f"{name} is a {type(array).__name__}; a NumPy array {feature.accepted} is accepted")
        if not feature.accepts(array.shape):
            raise InputError(f"{name} has shape {list(array.shape)}; {feature.accepted} is accepted")
        if array.dtype.kind != feature.dtype.kind:
            raise InputError(f"{name} is {array.dtype}; {feature.dtype} is accepted")
        arrays[name] = array.astype(feature.dtype, copy=False)
    return arrays
