"""The offset of each weight of a network in its weights file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeAlias

import numpy as np

from converter.mil.tensor import Array
from converter.weights.blob import BlobReader, BlobWriter, blob_size
from converter.weights.dtypes import DType, stored_as
from converter.weights.encodings import Bytes, Part
from converter.weights.library import cores

#: Below this many elements coremltools keeps an array inside the program (backend/mil/load.py).
INLINE_BELOW = 10
#: Where a part of a weight is: at an offset of the weights file, or, if it is small, in the program, as these bytes.
Placed: TypeAlias = int | Bytes


class Weights:
    """The weights file of one network, which all its variants share; a context manager that completes it.

    A weight is written on its first call and keeps its offset, so further variants add nothing to the file. Compressed
    weights are computed in threads and written in order, with a few in memory at a time.
    """

    def __init__(self, writer: BlobWriter, written: Callable[[int], None]) -> None:
        """``written`` is called with the bytes of each weight, those of a compressed one in fp16."""
        self._writer, self._written = writer, written
        self._placed: dict[str, tuple[Placed, ...]] = {}
        self._threads = cores()
        self._pool: ThreadPoolExecutor | None = None
        #: What is not written yet: (wait for the bytes of each blob, their types, the bytes to report).
        self._pending: deque[tuple[Callable[[], Sequence[Bytes]], Sequence[DType], int]] = deque()
        self._end = writer.end

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._write_pending(0)
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)

    def place(self, name: str, values: Callable[[], Array]) -> int:
        """Return the offset of weight ``name``; ``values`` is called only if it is not written yet."""
        if name not in self._placed:
            array = np.ascontiguousarray(values())
            self._placed[name] = (self._next(array.nbytes),)
            data = array.reshape(-1).view(np.uint8)
            self._pending.append((lambda: [data], [stored_as(array.dtype)], array.nbytes))
            self._write_pending(0 if self._pool is None else self._threads)
        (offset,) = self._placed[name]
        assert isinstance(offset, int)
        return offset

    def place_encoded(
        self, name: str, parts: Sequence[Part], fp16_bytes: int, encode: Callable[[], Sequence[Bytes]]
    ) -> tuple[Placed, ...]:
        """Return where each part of weight ``name`` is; ``encode`` returns their bytes and is called, in a thread, as in `place`."""
        if name not in self._placed:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, "encoding")
            data = self._pool.submit(encode).result
            in_file = [index for index, part in enumerate(parts) if part.size >= INLINE_BELOW]
            self._placed[name] = tuple(
                self._next(part.nbytes) if part.size >= INLINE_BELOW else data()[index]
                for index, part in enumerate(parts)
            )
            blobs = [parts[index].dtype for index in in_file]
            self._pending.append((lambda: [data()[index] for index in in_file], blobs, fp16_bytes))
            self._write_pending(self._threads)
        return self._placed[name]

    def _next(self, nbytes: int) -> int:
        offset, self._end = self._end, self._end + blob_size(nbytes)
        return offset

    def _write_pending(self, most: int) -> None:
        """Write what was placed first, and wait for it, until at most so many weights are left."""
        while len(self._pending) > most:
            wait, dtypes, reported = self._pending.popleft()
            for dtype, data in zip(dtypes, wait(), strict=True):
                self._writer.write_bytes(dtype, data)
            self._written(reported)


class Unwritten(Weights):
    """The weights of a program that is not written to disk: they have no offsets, and their values are never read."""

    def __init__(self) -> None:
        self._placed = {}

    def place(self, name: str, values: Callable[[], Array]) -> int:
        """Return 0."""
        return 0

    def place_encoded(
        self, name: str, parts: Sequence[Part], fp16_bytes: int, encode: Callable[[], Sequence[Bytes]]
    ) -> tuple[Placed, ...]:
        """Return 0 for each part in the file, and zeros for one in the program."""
        return tuple(np.zeros(part.nbytes, np.uint8) if part.size < INLINE_BELOW else 0 for part in parts)


class CopiedWeights(Weights):
    """The weights file of a part of a network: those of the network's own weights that its programs use."""

    def __init__(self, whole: BlobReader, writer: BlobWriter) -> None:
        self._whole, self._copy = whole, writer
        self._moved: dict[int, int] = {}

    def copy(self, offset: int) -> int:
        """Return the offset of the weight that is at ``offset`` in the network's file."""
        if offset not in self._moved:
            self._moved[offset] = self._copy.copy(self._whole, offset)
        return self._moved[offset]
