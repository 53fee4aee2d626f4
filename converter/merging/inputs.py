"""What is merged, as the files' readers give it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray


class Embedding(Protocol):
    """A file of a textual inversion; vectors [n, width] by text encoder."""

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def families(self) -> tuple[str, ...]: ...
    @property
    def vectors(self) -> Mapping[str, NDArray[Any]]: ...
