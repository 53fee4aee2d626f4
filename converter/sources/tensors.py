"""The tensors of a checkpoint's network as memory-mapped arrays, from a safetensors file or its shards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from converter.errors import CheckpointError
from converter.sources.entry import TYPES, Entry, Part
from converter.sources.header import read_header


class Tensors:
    """The named tensors of one network, from one or several safetensors files.

    metadata: the files' ``__metadata__``, written by trainers and merging programs.
    """

    def __init__(self, files: list[Path], *, mapped: bool = True) -> None:
        """``mapped``: whether the files are mapped, or small ones that are read as a whole."""
        self.metadata: dict[str, str] = {}
        self._entries: dict[str, Entry] = {}
        for path in files:
            entries, metadata = read_header(path, mapped)
            if duplicates := sorted(set(entries) & set(self._entries)):
                raise CheckpointError(f"{path} has {duplicates[0]}, which another of the network's files has too")
            self._entries |= entries
            self.metadata |= metadata

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise CheckpointError(f"the checkpoint has no tensor {name!r}")
        entry = self._entries[name]
        if entry.kind not in TYPES:
            raise CheckpointError(f"{name} is stored as {entry.kind}; accepted: {', '.join(TYPES)}")
        return entry

    def renamed(self, parts: Mapping[str, Part]) -> Tensors:
        """Return views of these files' tensors, or of parts of them, under other names; reads no values.

        Raises CheckpointError if a part's source is missing, of an unsupported type or of another shape.
        """
        return self._view({name: self._entry(part.source).cut(part) for name, part in parts.items()})

    def under(self, names: Mapping[str, str]) -> Tensors:
        """Return views of these files' tensors, of any type, under other names (new name -> present name)."""
        return self._view({to: self._entries[name] for to, name in names.items()})

    def _view(self, entries: dict[str, Entry]) -> Tensors:
        view = Tensors([])
        view.metadata, view._entries = self.metadata, entries
        return view

    def noting(self, names: set[str]) -> Tensors:
        """Return a view that adds the name of each tensor whose shape or values are read to ``names``."""
        view = _Noting([])
        view.metadata, view._entries, view.names = self.metadata, self._entries, names
        return view

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the tensor's shape without reading its values."""
        return self._entry(name).shape

    def size(self, name: str, axis: int) -> int:
        """Return the tensor's size along one axis, from 0. Raises CheckpointError if it has no such axis."""
        shape = self.shape(name)
        if axis >= len(shape):
            raise CheckpointError(f"{name} is {list(shape)}; more than {axis} axes were expected")
        return shape[axis]

    def stored_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor of any type, supported or not."""
        return self._entries[name].shape

    def array(self, name: str) -> NDArray[Any]:
        """Return the tensor's values: a view of the file, or fp32 for bfloat16 and 8-bit floats."""
        return self._entry(name).array()

    def path(self, name: str) -> Path:
        """Return the file that a tensor is in."""
        return self._entry(name).path

    def require_fp16(self, name: str) -> None:
        """Raise CheckpointError if the tensor has an infinity or NaN, or a value that is infinite in fp16."""
        self._entry(name).require_fp16(name)

    def is_finite(self, name: str) -> bool:
        """Return whether the tensor, as stored, has no infinity or NaN; reads the file, which may be cut meanwhile."""
        return self._entry(name).is_finite()

    def number(self, name: str) -> float:
        """Return the value of a tensor of one; reads the file, which may be cut meanwhile."""
        return self._entry(name).number(name)

    def fp16_bytes(self, names: Iterable[str]) -> int:
        """Return the bytes of these tensors in fp16."""
        return sum(2 * math.prod(self.shape(name)) for name in names)


def _sizes(shape: tuple[int, ...]) -> str:
    """Return a shape for messages, without trailing 1s, by which a linear layer and a 1x1 convolution differ."""
    sizes = "x".join(map(str, shape)).removesuffix("x1").removesuffix("x1")
    return sizes or "one number"


def expect_shape(tensors: Tensors, name: str, shape: tuple[int, ...]) -> None:
    """Raise CheckpointError if there is no tensor ``name``, or it has another shape.

    Sizes of 1 are ignored: a linear layer may be stored as a 1x1 convolution.
    """
    stored = tensors.shape(name)
    if [n for n in stored if n != 1] != [n for n in shape if n != 1]:
        raise CheckpointError(
            f"{name} is {_sizes(stored)}, but by its network's configuration it should be {_sizes(shape)}"
        )


class _Noting(Tensors):
    names: set[str]

    def _entry(self, name: str) -> Entry:
        entry = super()._entry(name)
        self.names.add(name)
        return entry
