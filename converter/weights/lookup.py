"""Weights as packed indices into tables of values (palettes), and as packed integers with scales.

They are decoded in C (native/lookup.c) where a compiler was at hand, straight into the type that is wanted and without
arrays in between: 0.6 to 0.8 ns for each weight and core; NumPy takes 10 times as long and more, with equal results.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from converter.weights.blob import WIDTHS, packed_size, unpack
from converter.weights.library import cores, library, pointer

Array = NDArray[Any]
#: From so many elements on for each of them, threads share an array: 0.4 ms, where a thread takes 0.05 to start.
_SHARED = 1_000_000
#: What scaled integers are decoded to in C, as long as they are within fp16's range.
_FLOATS, _FP16_MAX = (np.float16, np.float32), 65504


def _check(indices: NDArray[np.uint8], bits: int, shape: tuple[int, ...], groups: tuple[int, ...]) -> None:
    if bits not in WIDTHS:
        raise ValueError(f"integers of {bits} bits are not accepted; accepted: {', '.join(map(str, WIDTHS))}")
    if len(groups) != len(shape):
        raise ValueError(f"groups along {len(groups)} axes are for an array of {len(shape)}")
    for axis, (size, count) in enumerate(zip(shape, groups, strict=True)):
        if count < 1 or size % count:
            raise ValueError(f"{count} groups along axis {axis} do not divide its {size} elements")
    if indices.size != packed_size(bits, shape):
        raise ValueError(
            f"{list(shape)} integers of {bits} bits take {packed_size(bits, shape)} bytes, not {indices.size}"
        )


def _runs(shape: tuple[int, ...], groups: tuple[int, ...]) -> tuple[int, NDArray[np.int32]]:
    """Return how many elements in a row are of one group, and the group of each such run."""
    last = max((axis for axis, count in enumerate(groups) if count > 1), default=-1)
    if last < 0:
        return math.prod(shape), np.zeros(1, np.int32)
    run = shape[last] // groups[last] * math.prod(shape[last + 1 :])
    order = np.arange(math.prod(groups), dtype=np.int32).reshape(groups[: last + 1])
    for axis in range(last):
        order = np.repeat(order, shape[axis] // groups[axis], axis)
    return run, np.ascontiguousarray(order.reshape(-1))


def shift_scale(values: Array, scale: Array, offset: Array | None) -> NDArray[np.float32]:
    """Return ``(value - offset) * scale`` in fp32; scale and offset have a number for each equal part of each axis."""
    # Each axis is split into blocks and the elements of a block, so that scales broadcast over their blocks.
    blocks = [n for size, count in zip(values.shape, scale.shape, strict=True) for n in (count, size // count)]
    per_block = [n for count in scale.shape for n in (count, 1)]
    result = values.astype(np.float32).reshape(blocks)
    with np.errstate(over="ignore", invalid="ignore"):  # scales that a package has may be anything
        if offset is not None:
            result -= offset.astype(np.float32).reshape(per_block)
        result *= scale.astype(np.float32).reshape(per_block)
    return result.reshape(values.shape)


def _share(size: int, decode: Callable[[int, int], None]) -> None:
    """Call ``decode`` with the bounds of parts that are all elements together, in threads where they are many."""
    if not size:
        return
    parts = min(cores(), max(size // _SHARED, 1))
    bounds = [*(size * part // parts // 8 * 8 for part in range(parts)), size]  # each begins with a byte
    if parts == 1:
        decode(*bounds)
    else:
        with ThreadPoolExecutor(parts, "decoding") as pool:
            list(pool.map(decode, bounds[:-1], bounds[1:]))


def _place(shape: tuple[int, ...], dtype: np.dtype[Any], out: Array | None) -> Array:
    size = math.prod(shape)
    return (np.empty(size, dtype) if out is None else out[:size]).reshape(shape)


@dataclass(frozen=True, eq=False)
class Lookup:
    """An array whose elements are ``values[group, index]``.

    indices: bytes, packed as `converter.weights.blob.unpack` reads them.
    bits: of each index.
    groups: into how many equal parts each axis is divided; each part has a table, in the order of the parts.
    values: [parts, 2 ** bits].
    """

    indices: NDArray[np.uint8]
    bits: int
    shape: tuple[int, ...]
    groups: tuple[int, ...]
    values: Array

    def __post_init__(self) -> None:
        """Raises ValueError if the parts do not fit together."""
        _check(self.indices, self.bits, self.shape, self.groups)
        if self.values.shape != (math.prod(self.groups), 1 << self.bits):
            raise ValueError(
                f"{self.bits} bits need {math.prod(self.groups)} tables of {1 << self.bits} values, not "
                f"{list(self.values.shape)}"
            )

    def dense(self, dtype: DTypeLike, *, out: Array | None = None, in_c: bool = True) -> Array:
        """Return the array, its values converted to ``dtype``; ``in_c=False`` computes with NumPy.

        Computed in C it is in ``out``, a contiguous row of that type with as many elements or more, if that is given.
        """
        native = library("_lookup") if in_c else None
        values = np.ascontiguousarray(self.values, dtype)
        run, tables = _runs(self.shape, self.groups)
        if native is None or values.itemsize not in (1, 2, 4):
            indices = unpack(self.indices, self.bits, False, (tables.size, run))
            chosen: Array = values[tables[:, None], indices].reshape(self.shape)
            return chosen
        indices, result = np.ascontiguousarray(self.indices), _place(self.shape, values.dtype, out)
        _share(
            result.size,
            lambda begin, end: native.look_up(
                pointer(indices), self.bits, *map(ctypes.c_int64, (tables.size, run, begin, end)),
                pointer(tables), pointer(values), values.itemsize, pointer(result),
            ),
        )  # fmt: skip
        return result


@dataclass(frozen=True, eq=False)
class Scaled:
    """An array whose elements are ``(integer - offset) * scale``.

    integers: bytes, packed as `converter.weights.blob.unpack` reads them.
    bits, signed: of each integer.
    groups: into how many equal parts each axis is divided.
    scales, offsets: one for each part, in the order of the parts.
    """

    integers: NDArray[np.uint8]
    bits: int
    signed: bool
    shape: tuple[int, ...]
    groups: tuple[int, ...]
    scales: NDArray[np.float32]
    offsets: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Raises ValueError if the parts do not fit together."""
        _check(self.integers, self.bits, self.shape, self.groups)
        if not self.scales.shape == self.offsets.shape == (math.prod(self.groups),):
            raise ValueError(
                f"{math.prod(self.groups)} groups need as many scales and offsets, not {list(self.scales.shape)} and "
                f"{list(self.offsets.shape)}"
            )

    def exact(self) -> NDArray[np.float32]:
        """Return the array as it is computed, in fp32."""
        integers = unpack(self.integers, self.bits, self.signed, self.shape)
        return shift_scale(integers, self.scales.reshape(self.groups), self.offsets.reshape(self.groups))

    def dense(self, dtype: DTypeLike, *, out: Array | None = None, in_c: bool = True) -> Array:
        """Return the array rounded to fp16, as ``dtype``; ``out`` and ``in_c`` as for `Lookup.dense`."""
        native, wanted = library("_lookup") if in_c else None, np.dtype(dtype)
        scales, offsets = (np.ascontiguousarray(values, np.float32) for values in (self.scales, self.offsets))
        largest = (np.abs(offsets).max(initial=0) + np.float32(1 << self.bits)) * np.abs(scales).max(initial=0)
        if native is None or self.bits not in (4, 8) or wanted not in _FLOATS or not largest < _FP16_MAX:
            with np.errstate(over="ignore"):
                return self.exact().astype(np.float16).astype(wanted, copy=False)
        run, groups = _runs(self.shape, self.groups)
        integers, result = np.ascontiguousarray(self.integers), _place(self.shape, wanted, out)
        sign = 1 << (self.bits - 1) if self.signed else 0
        _share(
            result.size,
            lambda begin, end: native.scale_integers(
                pointer(integers), self.bits, sign, *map(ctypes.c_int64, (run, begin, end)),
                *map(pointer, (groups, scales, offsets)), wanted.itemsize, pointer(result),
            ),
        )  # fmt: skip
        return result
