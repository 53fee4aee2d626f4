"""Compressed constants: weights as a package stores them, decoded on demand.

The semantics are those documented in coremltools' ``ops/defs/iOS16/constexpr_ops.py`` and ``iOS18/compression.py``.
Scales are applied in fp32 and the result is rounded once, to the type that the program declares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from converter.runtime.feature import PackageError
from converter.weights.blob import unpack
from converter.weights.dtypes import DTYPES

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Compressed:
    """A constant as the operation that computes it.

    name: its name in the program.
    kind: the operation's type, or the element type ("uint4") of packed integers.
    output: the index of the operation's output.
    shape, dtype: of the dense array; integers narrower than a byte are uint8 or int8.
    sources: the operation's parameters, which may be compressed too; large ones stay in their file.
    """

    name: str
    kind: str
    output: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sources: Mapping[str, Value]

    @property
    def size(self) -> int:
        """The number of elements of the dense array."""
        return math.prod(self.shape)

    def dense(self) -> Array:
        """Decode the array, at each call again; raises PackageError if the parameters do not fit together."""
        decode = _DECODERS[self.kind, self.output]
        sources = {name: value if isinstance(value, str) else dense(value) for name, value in self.sources.items()}
        try:
            return decode(self.shape, **sources).astype(self.dtype, copy=False).reshape(self.shape)
        except (ValueError, IndexError, TypeError, AttributeError, ArithmeticError) as error:
            raise PackageError(f"{self.name} ({self.kind}) is damaged: {error}") from error


#: A constant: an array, text, or an array still compressed.
Value: TypeAlias = Array | str | Compressed


def dense(value: Array | Compressed) -> Array:
    """Return a numeric constant as an array."""
    return value.dense() if isinstance(value, Compressed) else value


def decodes(kind: str, outputs: int = 1) -> bool:
    """Return whether an operation of this kind and number of outputs gives compressed constants."""
    return all((kind, output) in _DECODERS for output in range(max(outputs, 1)))


def _unpack(bits: int, signed: bool, shape: tuple[int, ...], /, data: Array) -> Array:
    return unpack(data, bits, signed, shape)


def _along(value: Array, axis: int, rank: int) -> Array:
    """Return a vector reshaped to lie along one axis; a number as it is."""
    shape = [1] * rank
    shape[axis] = -1
    return value.astype(np.float32) if value.ndim == 0 else value.astype(np.float32).reshape(shape)


def _affine_dequantize(
    shape: tuple[int, ...], /, quantized_data: Array, zero_point: Array, scale: Array, axis: Array
) -> Array:
    values = quantized_data.astype(np.float32)
    values -= _along(zero_point, int(axis), values.ndim)
    values *= _along(scale, int(axis), values.ndim)
    return values


def _shift_scale(shape: tuple[int, ...], /, data: Array, scale: Array, offset: Array | None = None) -> Array:
    # Each axis is split into blocks and the elements of a block, so that scales broadcast over their blocks.
    blocks = [n for size, count in zip(data.shape, scale.shape, strict=True) for n in (count, size // count)]
    per_block = [n for count in scale.shape for n in (count, 1)]
    values = data.astype(np.float32).reshape(blocks)
    if offset is not None:
        values -= offset.astype(np.float32).reshape(per_block)
    values *= scale.astype(np.float32).reshape(per_block)
    return values.reshape(data.shape)


def _look_up(shape: tuple[int, ...], /, indices: Array, lut: Array, vector_axis: Array | None = None) -> Array:
    *groups, palette, vector = lut.shape
    entries: Array = indices
    if math.prod(groups) > 1:
        group: Array = np.zeros((1,) * indices.ndim, np.int32)
        for axis, (size, count) in enumerate(zip(indices.shape, groups, strict=True)):
            along = np.arange(size, dtype=np.int32) // (size // count)
            group = group * count + along.reshape([-1 if a == axis else 1 for a in range(indices.ndim)])
        entries = group * palette + indices
    values: Array = lut.reshape(-1, vector)[entries]
    if vector == 1:
        single: Array = values[..., 0]
        return single
    if vector_axis is None:
        raise ValueError(f"a table of vectors of {vector} has no vector_axis")
    axis = int(vector_axis) % indices.ndim
    expanded = [size * vector if a == axis else size for a, size in enumerate(indices.shape)]
    return np.moveaxis(values, -1, axis + 1).reshape(expanded)


def _look_up_packed(expected: tuple[int, ...], /, indices: Array, lut: Array, shape: Array) -> Array:
    bits = lut.size.bit_length() - 1
    values: Array = lut[unpack(indices, bits, False, tuple(int(n) for n in shape))]
    return values


def _scatter(shape: tuple[int, ...], /, nonzero_data: Array, mask: Array) -> Array:
    values: Array = np.zeros(mask.shape, nonzero_data.dtype)
    values[mask != 0] = nonzero_data
    return values


def _scatter_packed(expected: tuple[int, ...], /, nonzero_data: Array, mask: Array, shape: Array) -> Array:
    return _scatter(expected, nonzero_data, unpack(mask, 1, False, tuple(int(n) for n in shape)))


def _cast(shape: tuple[int, ...], /, source_val: Array, output_dtype: str) -> Array:
    return source_val


def _sparse_mask(
    shape: tuple[int, ...],
    /,
    indices_mask: Array,
    indices_nonzero_data: Array,
    lut: Array,
    vector_axis: Array | None = None,
) -> Array:
    vector = lut.shape[-1]
    return indices_mask if vector_axis is None else np.repeat(indices_mask, vector, int(vector_axis))


def _look_up_sparse(
    shape: tuple[int, ...],
    /,
    indices_mask: Array,
    indices_nonzero_data: Array,
    lut: Array,
    vector_axis: Array | None = None,
) -> Array:
    unmasked = _look_up(shape, _scatter(shape, indices_nonzero_data, indices_mask), lut, vector_axis)
    values: Array = unmasked[_sparse_mask(shape, indices_mask, indices_nonzero_data, lut, vector_axis) != 0]
    return values


def _data_mask(
    shape: tuple[int, ...], /, data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> Array:
    return data_mask


def _shift_scale_sparse(
    shape: tuple[int, ...], /, data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> Array:
    unmasked = _shift_scale(shape, _scatter(shape, nonzero_data, data_mask), scale, offset)
    values: Array = unmasked[data_mask != 0]
    return values


def _either(first: Callable[..., Array], second: Callable[..., Array]) -> Callable[..., Array]:
    """Choose the operation of iOS 16, which has a parameter ``shape``, or that of iOS 18 with the same name, which has not."""
    return lambda expected, /, **sources: (first if "shape" in sources else second)(expected, **sources)


_DECODERS: dict[tuple[str, int], Callable[..., Array]] = {
    **{(dtype.name, 0): partial(_unpack, dtype.bits, dtype.signed) for dtype in DTYPES if dtype.packed},
    ("constexpr_affine_dequantize", 0): _affine_dequantize,
    ("constexpr_cast", 0): _cast,
    ("constexpr_blockwise_shift_scale", 0): _shift_scale,
    ("constexpr_lut_to_dense", 0): _either(_look_up_packed, _look_up),
    ("constexpr_sparse_to_dense", 0): _either(_scatter_packed, _scatter),
    ("constexpr_lut_to_sparse", 0): _sparse_mask,
    ("constexpr_lut_to_sparse", 1): _look_up_sparse,
    ("constexpr_sparse_blockwise_shift_scale", 0): _data_mask,
    ("constexpr_sparse_blockwise_shift_scale", 1): _shift_scale_sparse,
}
