"""The table of element types, with their names in MIL's messages and text, weights files, descriptions and NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

#: The member of MIL.proto's TensorValue with an immediate tensor's elements.
Field = Literal["bools", "strings", "floats", "doubles", "ints", "longInts", "bytes"]


@dataclass(frozen=True)
class DType:
    """An element type.

    name: its word in MIL text.
    number: its DataType in MIL.proto.
    bits: its stored width; 0 for text.
    field: the member with an immediate tensor's elements (coremltools' IMMEDIATE_VALUE_TYPES_IN_BYTES).
    numpy: its NumPy type once unpacked; None if NumPy does not have it.
    blob: its number in weight.bin (MILBlob's BlobDataType.hpp); None if weights cannot be of it.
    array: its word in a description of inputs and outputs; in capitals it is the ArrayDataType of FeatureTypes.proto.
    """

    name: str
    number: int
    bits: int
    field: Field
    numpy: np.dtype[Any] | None
    blob: int | None = None
    array: str | None = None

    @property
    def packed(self) -> bool:
        """Whether several elements share a byte, the first in its lowest bits."""
        return 0 < self.bits < 8

    @property
    def signed(self) -> bool:
        """Whether it is a signed integer."""
        return self.numpy is not None and self.numpy.kind == "i"


def _numpy(name: str) -> np.dtype[Any]:
    return np.dtype(name)


#: Types of 8 bits and more come before packed ones with the same NumPy type.
DTYPES = (
    DType("bool", 1, 8, "bools", _numpy("bool")),
    DType("string", 2, 0, "strings", _numpy("str")),
    DType("fp16", 10, 16, "bytes", _numpy("float16"), 1, "Float16"),
    DType("fp32", 11, 32, "floats", _numpy("float32"), 2, "Float32"),
    DType("fp64", 12, 64, "doubles", _numpy("float64"), None, "Double"),
    DType("bf16", 13, 16, "ints", None),
    DType("int8", 21, 8, "bytes", _numpy("int8"), 4, "Int8"),
    DType("int16", 22, 16, "ints", _numpy("int16"), 6),
    DType("int32", 23, 32, "ints", _numpy("int32"), 14, "Int32"),
    DType("int64", 24, 64, "longInts", _numpy("int64")),
    DType("uint8", 31, 8, "bytes", _numpy("uint8"), 3),
    DType("uint16", 32, 16, "ints", _numpy("uint16"), 7),
    DType("uint32", 33, 32, "bytes", _numpy("uint32"), 15),
    DType("uint64", 34, 64, "longInts", _numpy("uint64")),
    DType("fp8e4m3fn", 40, 8, "ints", None),
    DType("fp8e5m2", 41, 8, "ints", None),
    DType("int4", 25, 4, "bytes", _numpy("int8"), 8),
    DType("uint6", 38, 6, "bytes", _numpy("uint8"), 13),
    DType("uint4", 35, 4, "bytes", _numpy("uint8"), 11),
    DType("uint3", 39, 3, "bytes", _numpy("uint8"), 12),
    DType("uint2", 36, 2, "bytes", _numpy("uint8"), 10),
    DType("uint1", 37, 1, "bytes", _numpy("uint8"), 9),
)
BY_NAME = {dtype.name: dtype for dtype in DTYPES}
BY_NUMBER = {dtype.number: dtype for dtype in DTYPES}
#: The types of inputs and outputs, by their word in descriptions.
BY_ARRAY = {dtype.array: dtype for dtype in DTYPES if dtype.array}
_BY_NUMPY = {dtype.numpy: dtype for dtype in DTYPES if not dtype.packed}


def stored_as(numpy: np.dtype[Any]) -> DType:
    """Return the element type of a NumPy type; raises ValueError if ML programs do not have it."""
    dtype = _BY_NUMPY.get(numpy)
    if dtype is None:
        raise ValueError(
            f"ML programs do not have the type {numpy}; accepted: {', '.join(str(n) for n in _BY_NUMPY if n)}"
        )
    return dtype
