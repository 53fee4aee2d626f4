"""weight.bin, the file an ML program's large constants live in (MIL blob storage, version 2).

Layout, from coremltools' ``mlmodel/src/MILBlob/Blob/StorageFormat.hpp``: a 64-byte header (count, version), then for
each blob a 64-byte record (sentinel, type, size, offset of the data) followed by the data, both 64-byte aligned. A
program refers to a blob by the offset of its record.
"""

from __future__ import annotations

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

#: Blob type numbers that a numpy array can hold whole (sub-byte types are packed and have none).
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


class BlobError(ValueError):
    """weight.bin is not what the program says it is."""


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
        self._bytes: NDArray[np.uint8] = np.memmap(path, np.uint8, "r")
        _, version = (
            _HEADER.unpack(self._bytes[: _HEADER.size].tobytes()) if self._bytes.size >= _HEADER.size else (0, 0)
        )
        if version != 2:
            raise BlobError(f"{path}: not a version 2 weights file")

    def read(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The array whose record is at ``offset``; raises BlobError where it is not of that type and size."""
        if offset + _RECORD.size > self._bytes.size:
            raise BlobError(f"{self._path}: no blob at {offset}; the file ends at {self._bytes.size}")
        sentinel, number, size, start, _ = _RECORD.unpack(self._bytes[offset : offset + _RECORD.size].tobytes())
        if sentinel != _SENTINEL:
            raise BlobError(f"{self._path}: no blob record at {offset}")
        expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if BLOB_TYPES.get(number) != dtype or size != expected or start + size > self._bytes.size:
            raise BlobError(
                f"{self._path}: the blob at {offset} is type {number} of {size} bytes, "
                f"but the program expects {dtype} {list(shape)} of {expected}"
            )
        return self._bytes[start : start + size].view(dtype).reshape(shape)
