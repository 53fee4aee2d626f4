"""The upscaler folder: one package that enlarges tiles of an image, and a manifest with what a server needs to use it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Literal

from pydantic import TypeAdapter

from converter.checksums import FileSum, wrong_content, wrong_size
from converter.errors import DamagedModel
from converter.manifest import Count, Source, Versions, Within, read_manifest

FORMAT = 1
FILE = "anemone-upscaler.json"


@dataclass(frozen=True)
class UpscalerManifest:
    """anemone-upscaler.json.

    architecture: the network's, rrdb or compact.
    scale: how many times the network enlarges a tile.
    tile: the side of a tile, in pixels.
    package: the path of the package in the folder.
    files: the checksum of each file of the package, by its path in the folder.
    """

    name: str
    architecture: Literal["rrdb", "compact"]
    scale: Count
    tile: Count
    package: Within
    source: Source
    converter: Versions
    files: dict[Within, FileSum]
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write anemone-upscaler.json into ``folder``."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


_MANIFEST = TypeAdapter(UpscalerManifest)


@dataclass(frozen=True)
class UpscalerFolder:
    """A converted upscaler on disk."""

    path: Path
    manifest: UpscalerManifest

    @staticmethod
    def open(path: Path) -> UpscalerFolder:
        """Open the upscaler in ``path``; raises ManifestError if it is not one, and DamagedModel if a file is missing."""
        folder = UpscalerFolder(path, read_manifest(path, FILE, "a converted upscaler", _MANIFEST, FORMAT))
        if (wrong := wrong_size(path, folder.manifest.files)) is not None:
            raise folder._damaged(wrong)
        return folder

    def __hash__(self) -> int:
        return hash((self.path, self.manifest.source.sha256))

    @property
    def package(self) -> Path:
        """The package's folder."""
        return self.path / self.manifest.package

    def compare(self) -> None:
        """Compare all files that have changed since they were compared last with their checksums. Raises DamagedModel."""
        if (wrong := wrong_content(self.path, self.manifest.files)) is not None:
            raise self._damaged(wrong)

    def _damaged(self, wrong: str) -> DamagedModel:
        again = f"`anemone convert SOURCE -o {quote(str(self.path))}`"
        return DamagedModel(
            f"{self.path} is damaged: {wrong}; convert {self.manifest.source.path_or_id} again: {again}", wrong
        )
