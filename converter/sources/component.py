"""A single network to convert with a checkpoint: a replacement VAE, a tiny decoder for previews, a ControlNet."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError
from converter.progress import OnProgress, ignore
from converter.sources.checkpoint import content_hash, weight_files
from converter.sources.configs import read_json
from converter.sources.snapshot import short_name
from converter.sources.tensors import Tensors


def _from_hub(text: str, within: str | None, progress: OnProgress) -> Component | None:
    # huggingface_hub takes a fifth of a second to import; folders do not need it.
    from converter.sources.hub import HubAddress, fetch_network

    address = HubAddress.parse(text)
    if address is None or address.file is not None:
        return None
    return Component(fetch_network(address, within, progress), address.repo.rpartition("/")[2])


@dataclass(frozen=True)
class Component:
    """A folder with config.json and safetensors weights, as diffusers saves a network."""

    folder: Path
    name: str

    @staticmethod
    def open(
        location: str | Path,
        within: str | None = None,
        progress: OnProgress = ignore,
    ) -> Component:
        """Return the network in a folder, or in the repository owner/name on the Hugging Face hub if there is no such folder.

        In a whole checkpoint, it is the network in the folder ``within``. ``progress`` is called during a download.
        Raises CheckpointError saying what is missing.
        """
        path = Path(location).expanduser()
        if not path.exists() and (component := _from_hub(str(location), within, progress)) is not None:
            return component
        folder = path
        if within is not None and not (path / "config.json").is_file() and (path / within).is_dir():
            folder = path / within
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{path} is not a network; accepted: a folder with config.json and its weights as .safetensors, or "
                "owner/name of one on the Hugging Face hub"
            )
        weight_files(folder)
        return Component(folder, short_name(path))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return read_json(self.folder / "config.json")

    @cached_property
    def tensors(self) -> Tensors:
        """The weights as memory-mapped arrays."""
        return Tensors(weight_files(self.folder))

    @cached_property
    def sha256(self) -> str:
        """A hash of its files' names and contents."""
        paths = [self.folder / "config.json", *weight_files(self.folder)]
        return hashlib.sha256("\n".join(f"{path.name} {content_hash(path)}" for path in paths).encode()).hexdigest()
