"""Checkpoint tensors as memory-mapped arrays: a safetensors file (or its shards) read through the page cache.

The safetensors library copies each tensor and has no NumPy bfloat16; the format itself is a JSON header and bytes
(https://huggingface.co/docs/safetensors), so the tensors are mapped where they lie.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from converter.errors import CheckpointError

_TYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "BF16": np.dtype(np.uint16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
}
#: Types whose size is known, so that a file which has them can be named, but whose values are not read.
_UNREAD = {"F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1, "I16": 2, "U16": 2, "U32": 4, "U64": 8}
_SIZES = {kind: dtype.itemsize for kind, dtype in _TYPES.items()} | _UNREAD
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class _Entry:
    """Bytes ``begin`` to ``end`` of a file; ``shape`` is the one seen, which is turned where the file's is [in, out]."""

    file: NDArray[np.uint8]
    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int
    turned: bool = False


@dataclass(frozen=True)
class Part:
    """Where a renamed tensor lies: all of tensor ``source``, or the ``index``-th of ``count`` equal runs of its rows.

    form: ``matrix`` drops the kernel of a 1x1 convolution ([out, in, 1, 1] becomes [out, in]; a matrix stays one);
    ``transposed`` swaps a matrix's axes.
    """

    source: str
    index: int = 0
    count: int = 1
    form: Literal["stored", "matrix", "transposed"] = "stored"


def _taken(entry: _Entry, part: Part) -> _Entry:
    shape, size = entry.shape, (entry.end - entry.begin) // part.count
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
    begin = entry.begin + part.index * size
    return _Entry(entry.file, entry.kind, shape, begin, begin + size, turned=part.form == "transposed")


class Tensors:
    """The named tensors of one network, from one or several safetensors files.

    metadata: the files' ``__metadata__``, which trainers and merging programs write.
    """

    def __init__(self, files: list[Path]) -> None:
        self.metadata: dict[str, str] = {}
        self._entries: dict[str, _Entry] = {}
        for path in files:
            self._read_header(path)

    def _read_header(self, path: Path) -> None:
        data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
        length = struct.unpack("<Q", data[:8].tobytes())[0] if data.size >= 8 else -1
        if not 0 < length <= min(_LONGEST_HEADER, data.size - 8):
            raise CheckpointError(f"{path} is not a whole safetensors file ({data.size} bytes)")
        try:
            header = json.loads(data[8 : 8 + length].tobytes())
            for name, about in header.items():
                if name == "__metadata__":
                    self.metadata |= {str(key): str(value) for key, value in (about or {}).items()}
                    continue
                begin, end = (8 + length + int(o) for o in about["data_offsets"])
                shape = tuple(int(n) for n in about["shape"])
                size = int(np.prod(shape, dtype=np.int64)) * _SIZES[about["dtype"]]
                if end > data.size or end - begin != size:
                    raise CheckpointError(f"{path} is cut short: {name} ends at byte {end} of {data.size}")
                self._entries[name] = _Entry(data, about["dtype"], shape, begin, end)
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} has an unreadable safetensors header: {error!r}") from error

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Any:
        return iter(self._entries)

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise CheckpointError(f"the checkpoint has no tensor {name!r}")
        entry = self._entries[name]
        if entry.kind in _UNREAD:
            raise CheckpointError(f"{name} is stored as {entry.kind}; this converter reads {', '.join(_TYPES)}")
        return entry

    def renamed(self, parts: Mapping[str, Part]) -> Tensors:
        """These files' tensors under other names, or parts of them: views, nothing is read.

        Raises CheckpointError where a part's source is missing, of a type that is not read or of another shape.
        """
        found = Tensors([])
        found.metadata = self.metadata
        found._entries = {name: _taken(self._entry(part.source), part) for name, part in parts.items()}
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, without touching its data."""
        return self._entry(name).shape

    def array(self, name: str) -> NDArray[Any]:
        """The tensor's values: a view of the file, or fp32 where the file holds bfloat16."""
        entry = self._entry(name)
        raw = entry.file[entry.begin : entry.end].view(_TYPES[entry.kind])
        if entry.kind == "BF16":
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.reshape(entry.shape[::-1]).T if entry.turned else raw.reshape(entry.shape)

    def half_bytes(self, wanted: Callable[[str], bool] = lambda name: True) -> int:
        """Bytes of all tensors whose name is ``wanted`` once they are fp16."""
        return sum(2 * int(np.prod(e.shape)) for n, e in self._entries.items() if wanted(n))

    def largest(self) -> int:
        """Elements of the largest tensor."""
        return max((int(np.prod(e.shape)) for e in self._entries.values()), default=0)
