"""The place of each weight of a network in its weights file."""

from __future__ import annotations

from collections.abc import Callable

from converter.mil.tensor import Array
from converter.weights.blob import BlobWriter


class Weights:
    """The weights file of one network, shared by its programs for several image sizes.

    A weight is written when it is first placed and found again by name afterwards, so the programs of further sizes
    add nothing to the file. Nothing of it depends on a program's target.
    """

    def __init__(self, writer: BlobWriter, written: Callable[[int], None]) -> None:
        self._writer = writer
        self._written = written
        self._offsets: dict[str, int] = {}

    def place(self, name: str, values: Callable[[], Array]) -> int:
        """Return the offset of weight ``name``; ``values`` is called only when it has not been written yet."""
        if name not in self._offsets:
            array = values()
            self._offsets[name] = self._writer.write(array)
            self._written(array.nbytes)
        return self._offsets[name]


class Unwritten(Weights):
    """The weights of a program that is not written: they have no place, and their values are never read."""

    def __init__(self) -> None:
        self._offsets = {}

    def place(self, name: str, values: Callable[[], Array]) -> int:
        """Return 0."""
        return 0
