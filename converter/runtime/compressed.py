"""Compressed constants: weights as a package stores them, decoded on demand.

The semantics are those documented in coremltools' ``ops/defs/iOS16/constexpr_ops.py`` and ``iOS18/compression.py``.
Scales are applied in fp32 and the result is rounded once, to the type that the program declares. Palettes, and integers
that scales turn into fp16, are decoded as `converter.weights.lookup` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from converter.runtime.feature import PackageError
from converter.weights.blob import release_pages, unpack
from converter.weights.dtypes import BY_NAME, DTYPES
from converter.weights.lookup import Lookup, Scaled, shift_scale

Array: TypeAlias = NDArray[Any]
#: What a decoder returns: an array, or its parts, which are decoded straight into the type and the place that are wanted.
Decoded: TypeAlias = Array | Lookup | Scaled
#: The parameters that a decoder takes as they are stored, packed ones as well.
_INDICES = frozenset({"indices", "data", "quantized_data"})
#: The parameters that are text.
_TEXTS = frozenset({"output_dtype"})


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

    def dense(self, dtype: np.dtype[Any] | None = None, *, out: Array | None = None) -> Array:
        """Decode the array, at each call again, and convert it to ``dtype``.

        It is in ``out``, a row of that type with as many elements or more, where that saves memory. Raises PackageError if
        the parameters do not fit together.
        """
        decoded, wanted = self._decoded(), self.dtype if dtype is None else dtype
        if isinstance(decoded, Scaled) and self.dtype != np.float16:
            decoded = decoded.exact()
        if isinstance(decoded, Lookup):
            decoded = replace(decoded, values=decoded.values.astype(self.dtype, copy=False))
        if not isinstance(decoded, np.ndarray):
            return decoded.dense(wanted, out=out)
        return decoded.astype(self.dtype, copy=False).astype(wanted, copy=False)

    def check(self) -> None:
        """Raise PackageError if the parameters do not fit together: before a use, where they are decoded at each."""
        self._decoded()

    def _decoded(self) -> Decoded:
        sources = {
            name: value if isinstance(value, str) or name in _INDICES else dense(value)
            for name, value in self.sources.items()
        }
        try:
            if text := [name for name, value in sources.items() if isinstance(value, str) and name not in _TEXTS]:
                raise ValueError(f"{text[0]} is text, not numbers")
            decoded = _call(_DECODERS[self.kind, self.output], self.shape, **sources)
            if decoded.shape != self.shape:
                raise ValueError(f"it is of {list(decoded.shape)}, and declared as {list(self.shape)}")
            return decoded
        except (ValueError, IndexError, TypeError, AttributeError, ArithmeticError) as error:
            raise PackageError(f"{self.name} ({self.kind}) is damaged: {error}") from error

    def release(self) -> None:
        """Release the memory of what is stored in files; the next use reads it again."""
        for value in self.sources.values():
            release(value)


#: A constant: an array, text, or an array still compressed.
Value: TypeAlias = Array | str | Compressed


def dense(value: Array | Compressed) -> Array:
    """Return a numeric constant as an array."""
    return value.dense() if isinstance(value, Compressed) else value


def release(value: Value) -> None:
    """Release the memory of a constant that is stored in a file; the next use reads it again."""
    if isinstance(value, Compressed):
        value.release()
    elif not isinstance(value, str):
        release_pages(value)


def decodes(kind: str, outputs: int = 1) -> bool:
    """Return whether an operation of this kind and number of outputs gives compressed constants."""
    return all((kind, output) in _DECODERS for output in range(max(outputs, 1)))


def _unpack(bits: int, signed: bool, shape: tuple[int, ...], /, data: Array) -> Array:
    return unpack(data, bits, signed, shape)


def _stored(integers: Array | Compressed) -> tuple[NDArray[np.uint8], int, bool]:
    """Return integers as bytes, the bits of each, and whether they are signed; raises ValueError for other constants."""
    if isinstance(integers, Compressed) and integers.kind in BY_NAME:
        stored, data = BY_NAME[integers.kind], integers.sources["data"]
        assert isinstance(data, np.ndarray)
        return data, stored.bits, stored.signed
    array = np.ascontiguousarray(dense(integers))
    if array.dtype not in (np.int8, np.uint8):
        raise ValueError(f"{array.dtype} are not integers of 8 bits or fewer")
    return array.reshape(-1).view(np.uint8), 8, array.dtype == np.int8


def _scaled(integers: Array | Compressed, groups: tuple[int, ...], scale: Array, offset: Array | None) -> Scaled:
    data, bits, signed = _stored(integers)
    offsets = np.zeros(scale.size) if offset is None else offset.reshape(-1)
    return Scaled(
        data, bits, signed, integers.shape, groups, scale.reshape(-1).astype(np.float32), offsets.astype(np.float32)
    )


def _affine_dequantize(
    shape: tuple[int, ...], /, quantized_data: Array | Compressed, zero_point: Array, scale: Array, axis: Array
) -> Scaled:
    rank, along = len(quantized_data.shape), int(axis)
    if not -rank <= along < rank:
        raise ValueError(f"axis is {along}, and quantized_data has {rank} axes")
    channels = max(scale.size, zero_point.size)
    groups = [1] * rank
    if channels > 1:
        groups[along] = channels
    for name, value in (("scale", scale), ("zero_point", zero_point)):
        if value.shape not in ((), (1,), (quantized_data.shape[along],)):
            raise ValueError(
                f"{name} has the shape {list(value.shape)}; accepted: one number, or one for each of the "
                f"{quantized_data.shape[along]} elements along axis {along}"
            )
    each = (np.broadcast_to(value.reshape(-1), (channels,)) for value in (scale, zero_point))
    return _scaled(quantized_data, tuple(groups), *each)


def _shift_scale(
    shape: tuple[int, ...], /, data: Array | Compressed, scale: Array, offset: Array | None = None
) -> Array | Scaled:
    _check_offset(scale, offset)
    if data.dtype.itemsize == 1:
        return _scaled(data, scale.shape, scale, offset)
    return _shift_scale_blocks(dense(data), scale, offset)


def _check_offset(scale: Array, offset: Array | None) -> None:
    if offset is not None and offset.shape != scale.shape:
        raise ValueError(
            f"offset has the shape {list(offset.shape)}, and scale {list(scale.shape)}; both have one shape"
        )


def _shift_scale_blocks(data: Array, scale: Array, offset: Array | None) -> Array:
    for axis, (size, count) in enumerate(zip(data.shape, scale.shape, strict=True)):
        if count < 1 or size % count:
            raise ValueError(f"{count} scales along axis {axis} do not divide its {size} elements")
    return shift_scale(data, scale, offset)


def _look_up(
    shape: tuple[int, ...], /, indices: Array | Compressed, lut: Array, vector_axis: Array | None = None
) -> Array | Lookup:
    *groups, palette, vector = (int(n) for n in lut.shape)
    data, bits, _ = _stored(indices)
    tables = lut.reshape(-1, palette, vector)
    if bits == 8 and palette < 256:  # indices that were unpacked before
        if data.size and data.max() >= palette:
            raise IndexError(f"index {data.max()} is beyond a table of {palette} values")
        tables = np.pad(tables, ((0, 0), (0, 256 - palette), (0, 0)))
    parts = [Lookup(data, bits, indices.shape, tuple(groups), tables[:, :, n]) for n in range(vector)]
    if vector == 1:
        return parts[0]
    if vector_axis is None:
        raise ValueError(f"a table of vectors of {vector} has no vector_axis")
    axis = int(vector_axis) % len(indices.shape)
    expanded = [size * vector if a == axis else size for a, size in enumerate(indices.shape)]
    return np.stack([part.dense(lut.dtype) for part in parts], axis + 1).reshape(expanded)


def _look_up_packed(expected: tuple[int, ...], /, indices: Array, lut: Array, shape: Array) -> Lookup:
    whole = tuple(int(n) for n in shape)
    return Lookup(indices, lut.size.bit_length() - 1, whole, (1,) * len(whole), lut.reshape(1, -1))


def _scatter(shape: tuple[int, ...], /, nonzero_data: Array, mask: Array) -> Array:
    if nonzero_data.size != np.count_nonzero(mask):
        raise ValueError(
            f"nonzero_data has {nonzero_data.size} elements, and the mask {np.count_nonzero(mask)} that are not zero"
        )
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
    if isinstance(unmasked, Lookup):
        unmasked = unmasked.dense(lut.dtype)
    values: Array = unmasked[_sparse_mask(shape, indices_mask, indices_nonzero_data, lut, vector_axis) != 0]
    return values


def _data_mask(
    shape: tuple[int, ...], /, data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> Array:
    return data_mask


def _shift_scale_sparse(
    shape: tuple[int, ...], /, data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> Array:
    _check_offset(scale, offset)
    unmasked = _shift_scale_blocks(_scatter(shape, nonzero_data, data_mask), scale, offset)
    values: Array = unmasked[data_mask != 0]
    return values


def _call(decode: Callable[..., Decoded], shape: tuple[int, ...], /, **sources: Any) -> Decoded:
    """Call a decoder; the TypeError for a parameter that is missing or unknown speaks of it, not of our functions."""
    bound = signature(decode).bind(shape, **sources)
    return decode(*bound.args, **bound.kwargs)


def _either(first: Callable[..., Decoded], second: Callable[..., Decoded]) -> Callable[..., Decoded]:
    """Choose the operation of iOS 16, which has a parameter ``shape``, or that of iOS 18 with the same name, which has not."""
    return lambda expected, /, **sources: _call(first if "shape" in sources else second, expected, **sources)


_DECODERS: dict[tuple[str, int], Callable[..., Decoded]] = {
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
