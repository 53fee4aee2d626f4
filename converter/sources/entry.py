"""A tensor as it lies in a safetensors file: its bytes, their type, and the values they stand for.

The safetensors library copies each tensor and has no NumPy bfloat16, so tensors are mapped in the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from converter.errors import CheckpointError

#: The types whose values are read, as arrays of these hold them.
TYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "BF16": np.dtype(np.uint16),
    "F8_E4M3": np.dtype(np.uint8),
    "F8_E5M2": np.dtype(np.uint8),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
}
#: The least value that rounds to infinity in fp16.
_INFINITE_IN_FP16 = 65520.0
_BEYOND_FP16 = "has values beyond 65504, the largest of fp16, in which models are stored"
#: The least bit pattern, without the sign, of an infinity or NaN in each type, and of a value that is infinite in fp16.
_NOT_FINITE = {
    "F16": 0x7C00,
    "BF16": 0x7F80,
    "F32": 0x7F800000,
    "F64": 0x7FF0000000000000,
    "F8_E4M3": 0x7F,
    "F8_E5M2": 0x7C,
}
_TOO_LARGE = {"BF16": 0x4780, "F32": 0x477FF000, "F64": 0x40EFFE0000000000}
#: Elements checked together: few enough to stay in a core's cache.
_CHUNK = 1 << 18


def _fp8_values(exponent_bits: int) -> NDArray[np.float32]:
    """Return the 256 values of an 8-bit float (Micikevicius et al. 2022, "FP8 Formats for Deep Learning")."""
    codes = np.arange(256, dtype=np.uint32)
    if exponent_bits == 5:
        return (codes << 8).astype(np.uint16).view(np.float16).astype(np.float32)
    exponent, fraction = (codes >> 3) & 15, codes & 7
    size = np.where(exponent == 0, fraction * 2.0**-9, (8 + fraction) * 2.0 ** (exponent.astype(np.float64) - 10))
    size[(codes & 0x7F) == 0x7F] = np.nan
    return np.where(codes & 0x80, -size, size).astype(np.float32)


#: The values of the types of 8-bit floats.
FP8 = {"F8_E4M3": _fp8_values(4), "F8_E5M2": _fp8_values(5)}


@dataclass(frozen=True)
class Part:
    """The origin of a renamed tensor: all of tensor ``source``, or the ``index``-th of ``count`` equal runs of its rows.

    form: ``matrix`` drops the kernel of a 1x1 convolution ([out, in, 1, 1] becomes [out, in]; a matrix stays one);
    ``transposed`` swaps a matrix's axes.
    """

    source: str
    index: int = 0
    count: int = 1
    form: Literal["stored", "matrix", "transposed"] = "stored"


@dataclass(frozen=True)
class Entry:
    """Bytes ``begin`` to ``end`` of the file at ``path``; ``shape`` is the resulting one, after transposing if ``transposed``.

    scale: factors of the values: one, or one for each row of the first axis as stored.
    """

    path: Path
    file: NDArray[np.uint8]
    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int
    transposed: bool = False
    scale: NDArray[np.float32] | None = None

    def cut(self, part: Part) -> Entry:
        """Return a part of it, under its own form. Raises CheckpointError if it cannot be cut so."""
        shape, size = self.shape, (self.end - self.begin) // part.count
        if not shape or shape[0] % part.count:
            raise CheckpointError(
                f"{part.source} is {list(shape)} and cannot be cut into {part.count} along its first axis"
            )
        shape = (shape[0] // part.count, *shape[1:])
        if part.form == "matrix":
            if len(shape) < 2 or any(n != 1 for n in shape[2:]):
                raise CheckpointError(f"{part.source} is {list(shape)}, not a 1x1 convolution")
            shape = shape[:2]
        if part.form == "transposed":
            if len(shape) != 2:
                raise CheckpointError(f"{part.source} is {list(shape)}, not a matrix")
            shape = shape[::-1]
        begin, scale = self.begin + part.index * size, self.scale
        if scale is not None and scale.size > 1:
            scale = np.split(scale, part.count)[part.index]
        return Entry(self.path, self.file, self.kind, shape, begin, begin + size, part.form == "transposed", scale)

    def _stored(self) -> NDArray[Any]:
        return self.file[self.begin : self.end].view(TYPES[self.kind])

    def row(self) -> NDArray[Any]:
        """Return the values as one row, unscaled: as stored, or in fp32 if NumPy lacks the type."""
        raw = self._stored()
        if self.kind == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return FP8[self.kind][raw] if self.kind in FP8 else raw

    def array(self) -> NDArray[Any]:
        """Return the values: a view of the file, or fp32 for bfloat16 and 8-bit floats."""
        raw = self.row().reshape(self.shape[::-1] if self.transposed else self.shape)
        if self.scale is not None:
            raw = raw * self.scale.reshape(-1, *[1] * (raw.ndim - 1))
        return raw.T if self.transposed else raw

    def _mapped_parts(self) -> Iterator[NDArray[Any]]:
        raw = self._stored()
        yield from (raw[i : i + _CHUNK] for i in range(0, raw.size, _CHUNK))

    def _read_parts(self) -> Iterator[NDArray[Any]]:
        """Yield the stored values by reading the file: a process that looks at mapped bytes of a file that is cut meanwhile dies."""
        dtype = TYPES[self.kind]
        with open(self.path, "rb") as file:
            file.seek(self.begin)
            for begin in range(self.begin, self.end, _CHUNK * dtype.itemsize):
                size = min(_CHUNK * dtype.itemsize, self.end - begin)
                data = file.read(size)
                if len(data) < size:
                    raise CheckpointError(f"{self.path} was cut while it was read")
                yield np.frombuffer(data, dtype)

    def require_fp16(self, name: str) -> None:
        """Raise CheckpointError if it has an infinity or NaN, or a value that is infinite in fp16.

        Compares bit patterns, whose order is that of the values, so no array of the tensor's size is made.
        """
        if self.kind not in _NOT_FINITE:
            if np.abs(self._stored().astype(np.float64)).max(initial=0) >= _INFINITE_IN_FP16:
                raise CheckpointError(f"{name} {_BEYOND_FP16}")
            return
        most = _greatest_bits(self._mapped_parts())
        if most >= _NOT_FINITE[self.kind]:
            raise CheckpointError(f"{name} has infinite values or NaNs; the file is damaged")
        # `not ... <` also catches a factor that is NaN.
        scaled = self.scale is not None and not np.abs(self.array()).max(initial=0) < _INFINITE_IN_FP16
        if scaled or most >= _TOO_LARGE.get(self.kind, _NOT_FINITE[self.kind]):
            raise CheckpointError(f"{name} {_BEYOND_FP16}")

    def is_finite(self) -> bool:
        """Return whether it has no infinity or NaN, as stored; reads the file, which may be cut meanwhile."""
        return self.kind not in _NOT_FINITE or _greatest_bits(self._read_parts()) < _NOT_FINITE[self.kind]

    def number(self, name: str) -> float:
        """Return the value of a tensor of one; reads the file, which may be cut meanwhile."""
        if math.prod(self.shape) != 1:
            raise CheckpointError(f"{name} is {list(self.shape)}; one number is accepted")
        data = np.concatenate([*self._read_parts()]).view(np.uint8)
        return float(replace(self, file=data, begin=0, end=data.size).row().reshape(()))


def _greatest_bits(parts: Iterable[NDArray[Any]]) -> int:
    """Return the greatest bit pattern of floats, without their signs; its order is that of the values."""
    most = 0
    for part in parts:
        raw = part.view(f"u{part.dtype.itemsize}")
        sign = raw.dtype.type(~(1 << (8 * raw.dtype.itemsize - 1)) & ((1 << 8 * raw.dtype.itemsize) - 1))
        most = max(most, int((raw & sign).max()))
    return most
