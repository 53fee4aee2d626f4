"""Weights as packed indices into tables of values: palettes, and integers that scales turn into values.

They are decoded in C (native/lookup.c) where a compiler was at hand, straight into the type that is wanted and without
arrays in between: 0.6 to 0.8 ns for each weight; NumPy takes about 10 times as long, with equal results.
"""

from __future__ import annotations

import ctypes
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from converter.weights.blob import packed_size, unpack
from converter.weights.library import cores, library, pointer

Array = NDArray[Any]
#: From so many elements on for each of them, threads share an array: 0.4 ms, where a thread takes 0.05 to start.
_SHARED = 1_000_000


@dataclass(frozen=True, eq=False)
class Lookup:
    """An array whose elements are ``values[table, index]``.

    indices: bytes, packed as `converter.weights.blob.unpack` reads them.
    bits: of each index.
    groups: into how many equal parts each axis is divided; each part has a table, in the order of the parts.
    values: [tables, 2 ** bits].
    """

    indices: NDArray[np.uint8]
    bits: int
    shape: tuple[int, ...]
    groups: tuple[int, ...]
    values: Array

    def __post_init__(self) -> None:
        """Raises ValueError if the parts do not fit together."""
        if len(self.groups) != len(self.shape):
            raise ValueError(f"tables along {len(self.groups)} axes are for an array of {len(self.shape)}")
        for axis, (size, count) in enumerate(zip(self.shape, self.groups, strict=True)):
            if count < 1 or size % count:
                raise ValueError(f"{count} tables along axis {axis} do not divide its {size} elements")
        if self.values.shape != (math.prod(self.groups), 1 << self.bits):
            raise ValueError(
                f"{self.bits} bits need {math.prod(self.groups)} tables of {1 << self.bits} values, not "
                f"{list(self.values.shape)}"
            )
        if self.indices.size != packed_size(self.bits, self.shape):
            raise ValueError(
                f"{list(self.shape)} integers of {self.bits} bits take {packed_size(self.bits, self.shape)} bytes, "
                f"not {self.indices.size}"
            )

    def _runs(self) -> tuple[int, NDArray[np.int32]]:
        """Return how many elements in a row share a table, and the table of each such run."""
        last = max((axis for axis, count in enumerate(self.groups) if count > 1), default=-1)
        if last < 0:
            return math.prod(self.shape), np.zeros(1, np.int32)
        run = self.shape[last] // self.groups[last] * math.prod(self.shape[last + 1 :])
        tables = np.arange(math.prod(self.groups), dtype=np.int32).reshape(self.groups[: last + 1])
        for axis in range(last):
            tables = np.repeat(tables, self.shape[axis] // self.groups[axis], axis)
        return run, np.ascontiguousarray(tables.reshape(-1))

    def dense(self, dtype: DTypeLike, *, out: Array | None = None, in_c: bool = True) -> Array:
        """Return the array, its values converted to ``dtype``; ``in_c=False`` computes with NumPy.

        Computed in C it is in ``out``, a contiguous row of that type with as many elements or more, if that is given.
        """
        native = library("_lookup") if in_c else None
        values = np.ascontiguousarray(self.values, dtype)
        run, tables = self._runs()
        if native is None or values.itemsize not in (1, 2, 4):
            indices = unpack(self.indices, self.bits, False, (tables.size, run))
            chosen: Array = values[tables[:, None], indices].reshape(self.shape)
            return chosen
        indices, size = np.ascontiguousarray(self.indices), math.prod(self.shape)
        result = (np.empty(size, values.dtype) if out is None else out[:size]).reshape(self.shape)

        def decode(begin: int, end: int) -> None:
            native.look_up(
                pointer(indices), self.bits, *map(ctypes.c_int64, (tables.size, run, begin, end)),
                pointer(tables), pointer(values), values.itemsize, pointer(result),
            )  # fmt: skip

        parts = min(cores(), max(result.size // _SHARED, 1))
        bounds = [result.size * part // parts for part in range(parts + 1)]
        if parts == 1:
            decode(*bounds)
        else:
            with ThreadPoolExecutor(parts, "decoding") as pool:
                list(pool.map(decode, bounds[:-1], bounds[1:]))
        return result
