"""Constants as a package stores them: their types and sizes, and their values on demand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.runtime.body import Literal, Type
from converter.runtime.constants import Constants
from converter.runtime.feature import PackageError
from converter.weights.blob import BlobReader


class Blobs:
    """The weights files of one run of the lint; opens a file that several packages share once."""

    def __init__(self) -> None:
        self._readers: dict[tuple[int, int], BlobReader] = {}
        #: Results of rules about a blob, by the blob's identity and the name of the result.
        self.results: dict[tuple[tuple[int, int, int], str], Any] = {}

    def identity(self, path: Path, offset: int) -> tuple[int, int, int]:
        """Return a key of the blob's bytes, the same in every package that shares them; raises PackageError."""
        try:
            stat = path.stat()
        except OSError as error:
            raise PackageError(f"{path} is missing: the package has lost its weights") from error
        return stat.st_dev, stat.st_ino, offset

    def open(self, path: Path) -> BlobReader:
        """Open a weights file, or return the reader of the same file opened before; raises PackageError."""
        device, node, _ = self.identity(path, 0)
        if (device, node) not in self._readers:
            self._readers[device, node] = BlobReader(path)
        return self._readers[device, node]


@dataclass(frozen=True, eq=False)
class Constant:
    """A stored constant, decoded on demand."""

    type: Type
    literal: Literal
    _constants: Constants
    _blobs: Blobs

    @property
    def in_file(self) -> bool:
        """Whether the value is in the weights file, not in the program."""
        return self.literal.in_file

    @cached_property
    def identity(self) -> tuple[int, int, int] | None:
        """A key of its bytes in the weights file; None if the value is in the program."""
        if not self.in_file:
            return None
        blob = self.literal.message.blobFileValue
        return self._blobs.identity(self._constants.file(str(blob.fileName)), int(blob.offset))

    @property
    def results(self) -> dict[tuple[tuple[int, int, int], str], Any]:
        """Results of rules about blobs, for the whole run."""
        return self._blobs.results

    def array(self) -> NDArray[Any] | None:
        """Return the values; None if NumPy does not have the type (text, packed integers). Raises PackageError."""
        stored = self.type.stored
        if stored is None or stored.numpy is None or stored.packed:
            return None
        value = self._constants.decode(self.literal, f"a constant of {self.type.dtype} {list(self.type.shape)}")
        return value if isinstance(value, np.ndarray) else None


@dataclass(frozen=True, eq=False)
class Weight:
    """A value that the program fixes: a constant, or constants and the constexpr operations on them.

    kinds: the types of these operations, the innermost first; empty for a plain constant. parts: the constants by parameter.
    """

    name: str
    type: Type
    kinds: tuple[str, ...]
    parts: tuple[tuple[str, Constant], ...]

    @property
    def stored(self) -> int:
        """The number of bytes in the package."""
        return sum(part.type.nbytes for _, part in self.parts)

    @property
    def constant(self) -> Constant | None:
        """The constant; None if operations unfold it from several."""
        return None if self.kinds else self.parts[0][1]
