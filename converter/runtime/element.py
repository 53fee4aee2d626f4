"""Element types of an ML program's tensors: how MIL's messages, its text and weights files name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Element:
    """An element type.

    name: its spelling in MIL text. number: its DataType in MIL.proto.
    dtype: what NumPy holds it in once unpacked; None where NumPy has no such type.
    bits: how wide it is where tensors are stored.
    """

    name: str
    number: int
    dtype: np.dtype[Any] | None
    bits: int

    @property
    def packed(self) -> bool:
        """Whether several share a byte, the first in its lowest bits."""
        return self.dtype is not None and self.bits < 8 and self.dtype.kind in "iu"

    @property
    def in_bytes(self) -> bool:
        """Whether an immediate tensor of it is raw bytes (all that MIL.proto has no list of numbers for)."""
        return self.name in _IN_BYTES


#: From coremltools' IMMEDIATE_VALUE_TYPES_IN_BYTES, as its frontend writes them.
_IN_BYTES = {"fp16", "int4", "int8", "uint1", "uint2", "uint3", "uint4", "uint6", "uint8", "uint32"}
_NUMPY = {"fp16": "float16", "fp32": "float32", "fp64": "float64", "string": "str"}


def _element(name: str, number: int, bits: int, dtype: str | None = "") -> Element:
    known = None if dtype is None else np.dtype(dtype or _NUMPY.get(name, name))
    return Element(name, number, known, bits)


ELEMENTS = (
    _element("bool", 1, 8),
    _element("string", 2, 0),
    _element("fp16", 10, 16),
    _element("fp32", 11, 32),
    _element("fp64", 12, 64),
    _element("bf16", 13, 16, None),
    _element("int8", 21, 8),
    _element("int16", 22, 16),
    _element("int32", 23, 32),
    _element("int64", 24, 64),
    _element("int4", 25, 4, "int8"),
    _element("uint8", 31, 8),
    _element("uint16", 32, 16),
    _element("uint32", 33, 32),
    _element("uint64", 34, 64),
    _element("uint4", 35, 4, "uint8"),
    _element("uint2", 36, 2, "uint8"),
    _element("uint1", 37, 1, "uint8"),
    _element("uint6", 38, 6, "uint8"),
    _element("uint3", 39, 3, "uint8"),
    _element("fp8e4m3fn", 40, 8, None),
    _element("fp8e5m2", 41, 8, None),
)
BY_NUMBER = {element.number: element for element in ELEMENTS}
BY_NAME = {element.name: element for element in ELEMENTS}
