"""The offset of each weight of a network in its weights file."""

from __future__ import annotations

from collections.abc import Callable

from converter.mil.tensor import Array
from converter.weights.blob import BlobWriter


class Weights:
    """The weights file of one network, which all its variants share.

    `place` writes a weight on its first call and returns the same offset afterwards, so further variants add nothing to
    the file. The file does not depend on a program's target.
    """

    def __init__(self, writer: BlobWriter, written: Callable[[int], None]) -> None:
        self._writer = writer
        self._written = written
        self._offsets: dict[str, int] = {}

    def place(self, name: str, values: Callable[[], Array]) -> int:
        """Return the offset of weight ``name``; ``values`` is called only if it is not written yet."""
        if name not in self._offsets:
            array = values()
            self._offsets[name] = self._writer.write(array)
            self._written(array.nbytes)
        return self._offsets[name]


class Unwritten(Weights):
    """The weights of a program that is not written to disk: they have no offsets, and their values are never read."""

    def __init__(self) -> None:
        self._offsets = {}

    def place(self, name: str, values: Callable[[], Array]) -> int:
        """Return 0."""
        return 0
