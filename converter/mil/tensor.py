"""Names, shapes and types of an ML program (MIL.proto)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.mil.mlproto import mil
from converter.weights.blob import pack
from converter.weights.dtypes import DType, stored_as

Array = NDArray[Any]
FP16, FP32, INT32, BOOL, UINT16, INT8 = (
    np.dtype(t) for t in (np.float16, np.float32, np.int32, np.bool_, np.uint16, np.int8)
)
#: Words of MIL's text form, to which Core ML compiles a program: a value with such a name does not compile
#: (https://github.com/apple/coremltools/issues/1634; the list is that of coremltools' NameSanitizer).
_RESERVED = frozenset(
    (
        *("any", "bool", "program", "func", "tensor", "list", "dict", "tuple", "true", "false", "string", "state"),
        *("bf16", "fp16", "fp32", "fp64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
)


@dataclass(frozen=True)
class Tensor:
    """The result of an operation, an input or a constant: its name in the program, shape and type."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def is_identifier(name: str) -> bool:
    """Return whether a value or function of a program may be called ``name``: no digit first, no reserved word."""
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None and name not in _RESERVED


def identifier(name: str) -> str:
    """Return ``name`` with the characters that MIL does not accept replaced by _."""
    replaced = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return replaced if is_identifier(replaced) else f"var_{replaced}"


def type_number(dtype: np.dtype[Any]) -> int:
    """Return MIL's number for a type."""
    return stored_as(dtype).number


def set_type(target: Any, shape: Sequence[int], number: int) -> None:
    """Make the ValueType ``target`` a tensor of that shape and type number."""
    target.tensorType.dataType = number
    if shape:
        target.tensorType.rank = len(shape)
        for size in shape:
            target.tensorType.dimensions.add().constant.size = size


def set_string(value: Any, text: str) -> None:
    """Make the Value ``value`` the string ``text``."""
    set_type(value.type, (), mil().STRING)
    value.immediateValue.tensor.strings.values.append(text)


def set_array(value: Any, array: Array) -> None:
    """Make the Value ``value`` the array, inside the program."""
    dtype = stored_as(array.dtype)
    set_type(value.type, array.shape, dtype.number)
    set_numbers(value.immediateValue.tensor, dtype, array)


def set_numbers(tensor: Any, dtype: DType, array: Array) -> None:
    """Put numbers of a type into a TensorValue; raises ValueError if integers are outside a packed type's range."""
    if dtype.field == "bytes":
        tensor.bytes.values = pack(array, dtype) if dtype.packed else array.tobytes()
    else:
        getattr(tensor, dtype.field).values.extend(array.reshape(-1).tolist())
