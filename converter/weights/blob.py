"""weight.bin, the file an ML program's large constants live in (MIL blob storage, version 2).

Layout, from coremltools' ``mlmodel/src/MILBlob/Blob/StorageFormat.hpp``: a 64-byte header (count, version), then for
each blob a 64-byte record (sentinel, type, size, offset of the data) followed by the data, both 64-byte aligned. A
program refers to a blob by the offset of its record.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_HEADER = struct.Struct("<II56x")
_RECORD = struct.Struct("<IIQQQ32x")
_SENTINEL = 0xDEADBEEF
_ALIGNMENT = 64

#: Blob type numbers that a numpy array can hold whole.
BLOB_TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.float16),
    2: np.dtype(np.float32),
    3: np.dtype(np.uint8),
    4: np.dtype(np.int8),
    6: np.dtype(np.int16),
    7: np.dtype(np.uint16),
    14: np.dtype(np.int32),
    15: np.dtype(np.uint32),
}
_NUMBERS = {dtype: number for number, dtype in BLOB_TYPES.items()}
#: Blob type numbers of integers narrower than a byte, by their bits and whether they are signed.
PACKED_TYPES: dict[tuple[int, bool], int] = {
    (4, True): 8,
    (1, False): 9,
    (2, False): 10,
    (4, False): 11,
    (3, False): 12,
    (6, False): 13,
}
#: Bits of the smallest group of whole bytes that holds whole integers of any of these widths.
_GROUP = 24


class BlobError(ValueError):
    """weight.bin is not what the program says it is."""


def packed_size(bits: int, shape: tuple[int, ...]) -> int:
    """How many bytes the integers of that width take, packed."""
    return -(-math.prod(shape) * bits // 8)


def unpack(data: NDArray[np.uint8], bits: int, signed: bool, shape: tuple[int, ...]) -> NDArray[Any]:
    """Integers of 1, 2, 3, 4, 6 or 8 bits as int8 or uint8; the first lies in the lowest bits of the first byte.

    Raises ValueError where ``data`` is not as long as they are.
    """
    if data.size != packed_size(bits, shape):
        raise ValueError(
            f"{list(shape)} integers of {bits} bits take {packed_size(bits, shape)} bytes, not {data.size}"
        )
    whole = np.zeros(-(-data.size * 8 // _GROUP) * _GROUP // 8, np.uint8)
    whole[: data.size] = data
    first, second, third = (whole[n::3].astype(np.uint32) << (8 * n) for n in range(3))
    groups = (first | second | third)[:, None]
    integers = ((groups >> np.arange(0, _GROUP, bits, dtype=np.uint32)) & ((1 << bits) - 1)).astype(np.uint8)
    integers = integers.reshape(-1)[: math.prod(shape)].reshape(shape)
    if not signed:
        return integers
    top = np.uint8(1 << (bits - 1))
    return ((integers ^ top) - top).view(np.int8)


class BlobWriter:
    """Writes weight.bin front to back, one tensor in memory at a time. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._count = 0
        self._file.write(_HEADER.pack(0, 2))

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._file.seek(0)
            self._file.write(_HEADER.pack(self._count, 2))
        self._file.close()

    def write(self, array: NDArray[Any]) -> int:
        """Append an array (any of `BLOB_TYPES`, any shape) and return the offset a program refers to it by."""
        record = self._file.tell()
        data = np.ascontiguousarray(array)
        self._file.write(_RECORD.pack(_SENTINEL, _NUMBERS[data.dtype], data.nbytes, record + _RECORD.size, 0))
        self._file.write(data.reshape(-1).view(np.uint8).data)
        self._file.write(b"\0" * (-data.nbytes % _ALIGNMENT))
        self._count += 1
        return record


class BlobReader:
    """weight.bin as memory-mapped arrays: nothing is read before it is used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # A plain array of the map's: what is computed from a memmap would pass for one, too.
        self._bytes: NDArray[np.uint8] = np.memmap(path, np.uint8, "r").view(np.ndarray)
        _, version = (
            _HEADER.unpack(self._bytes[: _HEADER.size].tobytes()) if self._bytes.size >= _HEADER.size else (0, 0)
        )
        if version != 2:
            raise BlobError(f"{path}: not a version 2 weights file")

    def read(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The array whose record is at ``offset``; raises BlobError where it is not of that type and size."""
        size = math.prod(shape) * dtype.itemsize
        data = self._blob(offset, _NUMBERS.get(dtype), size, f"{dtype} {list(shape)}")
        return data.view(dtype).reshape(shape)

    def packed(self, offset: int, bits: int, signed: bool, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The bytes of integers narrower than one, as `unpack` takes them; raises BlobError as `read` does."""
        words = f"{'' if signed else 'u'}int{bits} {list(shape)}"
        return self._blob(offset, PACKED_TYPES.get((bits, signed)), packed_size(bits, shape), words)

    def _blob(self, offset: int, expected: int | None, size: int, words: str) -> NDArray[np.uint8]:
        if offset + _RECORD.size > self._bytes.size:
            raise BlobError(f"{self._path}: no blob at {offset}; the file ends at {self._bytes.size}")
        sentinel, number, found, start, _ = _RECORD.unpack_from(self._bytes.data, offset)
        if sentinel != _SENTINEL:
            raise BlobError(f"{self._path}: no blob record at {offset}")
        if number != expected or found != size or start + size > self._bytes.size:
            raise BlobError(
                f"{self._path}: the blob at {offset} is type {number} of {found} bytes, "
                f"but the program expects {words} of {size}"
            )
        return self._bytes[start : start + size]
