"""Checkpoint tensors as memory-mapped arrays: a safetensors file (or its shards) read through the page cache.

The safetensors library copies each tensor and has no NumPy bfloat16; the format itself is a JSON header and bytes
(https://huggingface.co/docs/safetensors), so the tensors are mapped where they lie.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class _Entry:
    file: NDArray[np.uint8]
    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Tensors:
    """The named tensors of one network, from one or several safetensors files."""

    def __init__(self, files: list[Path]) -> None:
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
                    continue
                begin, end = (8 + length + int(o) for o in about["data_offsets"])
                shape = tuple(int(n) for n in about["shape"])
                size = int(np.prod(shape, dtype=np.int64)) * _TYPES[about["dtype"]].itemsize
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
        return self._entries[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, without touching its data."""
        return self._entry(name).shape

    def array(self, name: str) -> NDArray[Any]:
        """The tensor's values: a view of the file, or fp32 where the file holds bfloat16."""
        entry = self._entry(name)
        raw = entry.file[entry.begin : entry.end].view(_TYPES[entry.kind]).reshape(entry.shape)
        if entry.kind == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw

    def half_bytes(self, prefix: str | tuple[str, ...] = "") -> int:
        """Bytes of all tensors whose name begins with ``prefix`` once they are fp16."""
        return sum(2 * int(np.prod(e.shape)) for n, e in self._entries.items() if n.startswith(prefix))
