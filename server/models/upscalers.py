"""The installed upscalers: the upscaler folders in the data folder, and the bundled one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from converter.conversion.partial import conversion_lock
from converter.conversion.upscaler import REVISION, write_upscaler
from converter.errors import AnemoneError, ManifestError
from converter.options import DEFAULT_OPTIONS
from converter.sources.upscaler import UpscalerFile
from converter.upscaler_folder import UpscalerFolder

#: The bundled upscaler's name, which is its file's too.
BUNDLED = "shapes-2x"
_BUNDLED_FILE = Path(__file__).resolve().parent.parent / "data" / "anemone-upscaler" / f"{BUNDLED}.safetensors"


@cache
def _bundled_file() -> UpscalerFile:
    source = UpscalerFile.open(_BUNDLED_FILE)
    assert source is not None
    return source


@dataclass(frozen=True)
class Upscaler:
    """An upscaler: the side of its tiles, and how many times it enlarges them; 0 and 1 of one without a network."""

    tile: int = 0
    scale: int = 1


class UnknownUpscaler(AnemoneError):
    """No installed upscaler has this name."""


@dataclass(frozen=True)
class InstalledUpscalers:
    """The upscaler folders in ``data_dir``/upscalers by name, which is the folder's.

    The bundled one is converted there when it is first asked for, and again by a later version that converts it otherwise.
    """

    data_dir: Path

    @property
    def root(self) -> Path:
        """The folder of the upscalers."""
        return self.data_dir / "upscalers"

    def all(self) -> dict[str, Upscaler]:
        """Return all upscalers by name, the bundled one last; damaged folders are left out. Converts nothing."""
        found = {}
        for path in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if path.name.startswith(".") or path.name == BUNDLED:
                continue
            try:
                about = UpscalerFolder.open(path).manifest
            except ManifestError:
                continue
            found[path.name] = Upscaler(about.tile, about.scale)
        return found | {BUNDLED: Upscaler(DEFAULT_OPTIONS.tile, _bundled_file().scale)}

    def get(self, name: str) -> UpscalerFolder:
        """Return an upscaler; raises UnknownUpscaler, and DamagedModel if a file of it is missing."""
        if name == BUNDLED:
            return self._bundled()
        if not name or name.startswith(".") or "/" in name or not (self.root / name).is_dir():
            raise UnknownUpscaler(f"there is no upscaler {name[:80]!r}; installed: {', '.join(self.all())}")
        return UpscalerFolder.open(self.root / name)

    def _present(self) -> UpscalerFolder | None:
        try:
            folder = UpscalerFolder.open(self.root / BUNDLED)
        except ManifestError:
            return None
        about = folder.manifest
        return folder if about.converter.revision == REVISION and about.source.path_or_id == BUNDLED else None

    def _bundled(self) -> UpscalerFolder:
        if (folder := self._present()) is not None:
            return folder
        with conversion_lock(self.root / BUNDLED):
            if (folder := self._present()) is not None:
                return folder
            return write_upscaler(_bundled_file(), self.root / BUNDLED)
