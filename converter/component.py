"""One network on its own, given beside a checkpoint: a replacement VAE, a tiny decoder for previews, a ControlNet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from converter.checkpoint import read_json, weight_files
from converter.errors import CheckpointError
from converter.tensors import Tensors


@dataclass(frozen=True)
class Component:
    """A folder with config.json and safetensors weights, as diffusers saves a network."""

    folder: Path
    name: str

    @staticmethod
    def open(path: Path, within: str | None = None) -> Component:
        """The network in ``path``; where a whole checkpoint is there, the one in its folder ``within``.

        Raises CheckpointError saying what is missing.
        """
        folder = path
        if within is not None and not (path / "config.json").is_file() and (path / within).is_dir():
            folder = path / within
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{path} is no network: a folder with config.json and its weights as .safetensors is accepted"
            )
        weight_files(folder)
        return Component(folder, path.resolve().name)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its config.json."""
        return read_json(self.folder / "config.json")

    @cached_property
    def tensors(self) -> Tensors:
        """Its weights, mapped."""
        return Tensors(weight_files(self.folder))

    def _digest(self, of: Callable[[Path], str]) -> str:
        paths = [self.folder / "config.json", *weight_files(self.folder)]
        return hashlib.sha256("\n".join(f"{path.name} {of(path)}" for path in paths).encode()).hexdigest()

    @cached_property
    def sha256(self) -> str:
        """One hash over its files' names and contents."""

        def content(path: Path) -> str:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()

        return self._digest(content)
