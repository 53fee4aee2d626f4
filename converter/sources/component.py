"""One network on its own, given with a checkpoint: a replacement VAE, a tiny decoder for previews, a ControlNet."""

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


def _from_hub(given: str, within: str | None, progress: OnProgress) -> Component | None:
    # huggingface_hub takes a fifth of a second to import, which folders need not wait for.
    from converter.sources.hub import HubAddress, fetch_network

    address = HubAddress.parse(given)
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
        given: str | Path,
        within: str | None = None,
        progress: OnProgress = ignore,
    ) -> Component:
        """Return the network in a folder, or owner/name of one on the Hugging Face hub where there is no such folder.

        Where a whole checkpoint is there, the one in its folder ``within``. ``progress`` is called during a download. Raises
        CheckpointError saying what is missing.
        """
        path = Path(given).expanduser()
        if not path.exists() and (found := _from_hub(str(given), within, progress)) is not None:
            return found
        folder = path
        if within is not None and not (path / "config.json").is_file() and (path / within).is_dir():
            folder = path / within
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{path} is no network; accepted: a folder with config.json and its weights as .safetensors, or "
                "owner/name of one on the Hugging Face hub"
            )
        weight_files(folder)
        return Component(folder, short_name(path))

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its config.json."""
        return read_json(self.folder / "config.json")

    @cached_property
    def tensors(self) -> Tensors:
        """Its weights, mapped."""
        return Tensors(weight_files(self.folder))

    @cached_property
    def sha256(self) -> str:
        """One hash over its files' names and contents."""
        paths = [self.folder / "config.json", *weight_files(self.folder)]
        return hashlib.sha256("\n".join(f"{path.name} {content_hash(path)}" for path in paths).encode()).hexdigest()
