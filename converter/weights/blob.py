"""weight.bin, the file of an ML program's large constants (MIL blob storage, version 2).

Layout, from coremltools' ``mlmodel/src/MILBlob/Blob/StorageFormat.hpp``: a 64-byte header (count, version), then for
each blob a 64-byte record (sentinel, type, size, offset of the data, unused bits at its end) followed by the data, both
64-byte aligned. A program refers to a blob by the offset of its record.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from converter.checksums import FileSum, StreamedSum
from converter.weights.dtypes import DType, stored_as

_HEADER = struct.Struct("<II56x")
_RECORD = struct.Struct("<IIQQQ32x")
_SENTINEL = 0xDEADBEEF
_ALIGNMENT = 64

#: The widths of integers in weights files, in bits, and their least common multiple.
WIDTHS, _GROUP = (1, 2, 3, 4, 6, 8), 24


class BlobError(ValueError):
    """weight.bin does not fit the program."""


def packed_size(bits: int, shape: tuple[int, ...]) -> int:
    """Return how many bytes elements of that width take."""
    return -(-math.prod(shape) * bits // 8)


def blob_size(nbytes: int) -> int:
    """Return how many bytes of weight.bin a blob of so many bytes of data takes."""
    return _RECORD.size + nbytes + -nbytes % _ALIGNMENT


def pack(integers: NDArray[Any], dtype: DType) -> bytes:
    """Return integers packed as `unpack` reads them; raises ValueError if one is outside the range of ``dtype``."""
    low = -(1 << (dtype.bits - 1)) if dtype.signed else 0
    if outside := [n for n in integers.reshape(-1).tolist() if not low <= n < low + (1 << dtype.bits)]:
        raise ValueError(f"{outside[0]} is outside the range of {dtype.name}, {low} to {low + (1 << dtype.bits) - 1}")
    bit = (integers.reshape(-1).astype(np.uint8)[:, None] >> np.arange(dtype.bits, dtype=np.uint8)) & 1
    return np.packbits(bit.reshape(-1), bitorder="little").tobytes()


def unpack(data: NDArray[np.uint8], bits: int, signed: bool, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return integers of 1, 2, 3, 4, 6 or 8 bits as int8 or uint8; the first is in the lowest bits of the first byte.

    Raises ValueError if ``data`` has the wrong length.
    """
    if data.size != packed_size(bits, shape):
        raise ValueError(
            f"{list(shape)} integers of {bits} bits take {packed_size(bits, shape)} bytes, not {data.size}"
        )
    padded = np.zeros(-(-data.size * 8 // _GROUP) * _GROUP // 8, np.uint8)
    padded[: data.size] = data
    first, second, third = (padded[n::3].astype(np.uint32) << (8 * n) for n in range(3))
    groups = (first | second | third)[:, None]
    integers = ((groups >> np.arange(0, _GROUP, bits, dtype=np.uint32)) & ((1 << bits) - 1)).astype(np.uint8)
    integers = integers.reshape(-1)[: math.prod(shape)].reshape(shape)
    if not signed:
        return integers
    top = np.uint8(1 << (bits - 1))
    return ((integers ^ top) - top).view(np.int8)


class BlobWriter:
    """A context manager that writes weight.bin from front to back, with one tensor in memory at a time.

    sum: the file's checksum, once it is complete; it is made from the bytes as they are written.
    """

    sum: FileSum

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self._count, self._sum = 0, StreamedSum(_HEADER.size)
        self._file.write(_HEADER.pack(0, 2))

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sum.close()
        if error is None:
            header = _HEADER.pack(self._count, 2)
            self._file.seek(0)
            self._file.write(header)
            self.sum = self._sum.end(header)
        self._file.close()

    def write(self, array: NDArray[Any]) -> int:
        """Append an array of any shape; return the offset by which a program refers to it.

        Raises ValueError for a type that weights files do not have.
        """
        return self.write_bytes(stored_as(array.dtype), np.ascontiguousarray(array).reshape(-1).view(np.uint8))

    def write_bytes(self, dtype: DType, data: NDArray[np.uint8]) -> int:
        """Append the bytes of elements of a type, packed ones as `pack` packs them; the rest is as in `write`."""
        if dtype.blob is None:
            raise ValueError(f"weights files cannot store {dtype.name}")
        return self._append(dtype.blob, data)

    def copy(self, reader: BlobReader, offset: int) -> int:
        """Append the blob at ``offset`` of another weights file as it is; return its offset here."""
        number, data, padding = reader.blob(offset)
        copied = self._append(number, data, padding)
        release_pages(data)
        return copied

    def _append(self, number: int, data: NDArray[np.uint8], padding: int = 0) -> int:
        record = self.end
        self._write(_RECORD.pack(_SENTINEL, number, data.nbytes, record + _RECORD.size, padding))
        self._write(data.data)
        self._write(b"\0" * (-data.nbytes % _ALIGNMENT))
        self._count += 1
        return record

    @property
    def end(self) -> int:
        """The offset of the next blob."""
        return self._file.tell()

    def _write(self, data: bytes | memoryview) -> None:
        self._sum.add(data, lambda: self._file.write(data))


class BlobReader:
    """A reader of weight.bin that returns memory-mapped arrays: no byte is read before it is used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # This is a plain array over the map: arrays computed from a memmap would be memmaps too.
        self._bytes: NDArray[np.uint8] = np.memmap(path, np.uint8, "r").view(np.ndarray)
        _, version = (
            _HEADER.unpack(self._bytes[: _HEADER.size].tobytes()) if self._bytes.size >= _HEADER.size else (0, 0)
        )
        if version != 2:
            raise BlobError(f"{path} is not a version 2 weights file")

    def read(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the array whose record is at ``offset``; raises BlobError if its type or size differs."""
        size = math.prod(shape) * dtype.itemsize
        data = self._blob(offset, stored_as(dtype).blob, size, f"{dtype} {list(shape)}")
        return data.view(dtype).reshape(shape)

    def packed(self, offset: int, dtype: DType, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return the bytes of packed integers, as `unpack` takes them; raises BlobError as `read` does."""
        return self._blob(offset, dtype.blob, packed_size(dtype.bits, shape), f"{dtype.name} {list(shape)}")

    def blob(self, offset: int) -> tuple[int, NDArray[np.uint8], int]:
        """Return the number of a blob's type, its bytes, and how many bits at their end are no elements'; raises BlobError."""
        number, stored, start, padding = self._record(offset)
        if start + stored > self._bytes.size:
            raise BlobError(f"{self._path}: the blob at {offset} goes beyond the file's end at {self._bytes.size}")
        return number, self._bytes[start : start + stored], padding

    def _record(self, offset: int) -> tuple[int, int, int, int]:
        """Return what is noted of the blob at ``offset``: its type's number, size, place and unused bits."""
        if offset + _RECORD.size > self._bytes.size:
            raise BlobError(f"{self._path} has no blob at {offset}: the file ends at {self._bytes.size}")
        sentinel, number, stored, start, padding = _RECORD.unpack_from(self._bytes.data, offset)
        if sentinel != _SENTINEL:
            raise BlobError(f"{self._path} has no blob record at {offset}")
        return number, stored, start, padding

    def _blob(self, offset: int, expected: int | None, size: int, words: str) -> NDArray[np.uint8]:
        number, stored, start, _ = self._record(offset)
        if number != expected or stored != size or start + size > self._bytes.size:
            raise BlobError(
                f"{self._path}: the blob at {offset} is type {number} of {stored} bytes, "
                f"but the program expects {words} of {size}"
            )
        return self._bytes[start : start + size]


def release_pages(array: NDArray[Any]) -> None:
    """Release the memory of a memory-mapped array's pages; later uses read them from the file again.

    Does nothing for other arrays.
    """
    base: Any = array
    while isinstance(base, np.ndarray) and not isinstance(base.base, mmap.mmap):
        base = base.base
    if not isinstance(base, np.ndarray) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    mapping: Any = base.base
    begin = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (begin + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        mapping.madvise(mmap.MADV_DONTNEED, first, last - first)
