"""The models there are: every converted folder in the data folder, and those that were named outside of it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from converter.errors import AnemoneError, ManifestError
from converter.folder import FILE, Manifest
from converter.sources.snapshot import short_name

#: What is being deleted has this behind its name, and is no model any more.
_DELETED = ".deleted"


class UnknownModel(AnemoneError):
    """No installed model has this name."""


class NotDeletable(AnemoneError):
    """The model's folder is not one that the server made."""


@dataclass(frozen=True)
class _Seen:
    """A manifest as it was read, and the state of its file then."""

    stamp: tuple[int, int]
    manifest: Manifest


def _stamp(folder: Path) -> tuple[int, int]:
    found = (folder / FILE).stat()
    return found.st_mtime_ns, found.st_size


class InstalledModels:
    """Converted model folders by name: those in ``data_dir``/models, and ``extra`` ones anywhere else.

    A model's name is its folder's. Of two folders of one name the ``extra`` one keeps it and the other is called
    ``name-2``. What is on disk is looked at each time, so that a conversion's result is there once its folder is.
    """

    def __init__(self, data_dir: Path, extra: tuple[Path, ...] = (), default: str | None = None) -> None:
        """``default`` is the model of requests that name none; the first of ``extra`` where it is left out."""
        self._root, self._extra = data_dir / "models", extra
        self._default = default or (short_name(extra[0]) if extra else None)
        self._seen: dict[Path, _Seen] = {}

    @property
    def root(self) -> Path:
        """Where the server's own models lie."""
        return self._root

    @property
    def default(self) -> str | None:
        """The model of requests that name none; None where there is no model at all. It may still be converting."""
        if self._default is not None:
            return self._default
        return next(iter(self.names()), None)

    def _folders(self) -> dict[str, Path]:
        # Hidden ones are in the making; a name that cannot be written cannot be asked for either.
        there = self._root.iterdir() if self._root.is_dir() else ()
        own = sorted(p for p in there if p.name[0] != "." and p.name.isprintable())
        found: dict[str, Path] = {}
        for path in (*self._extra, *own):
            if path in found.values() or not self._read(path):
                continue
            # One outside may have been given as "."; a link inside is called what it is called.
            name, number = path.name if path.parent == self._root else short_name(path), 1
            while (known := name if number == 1 else f"{name}-{number}") in found:
                number += 1
            found[known] = path
        return found

    def _read(self, path: Path) -> Manifest | None:
        """The folder's manifest; None where it is no converted model, or a damaged one."""
        try:
            stamp = _stamp(path)
            seen = self._seen.get(path)
            if seen is None or seen.stamp != stamp:
                seen = self._seen[path] = _Seen(stamp, Manifest.read(path))
            return seen.manifest
        except (OSError, ManifestError):
            return None

    def names(self) -> tuple[str, ...]:
        """The names of all, those outside the data folder first."""
        return tuple(self._folders())

    def find(self, name: str) -> str:
        """The model's name in any case, or the name its manifest gives it; raises UnknownModel naming what there is."""
        folders = self._folders()
        if name in folders:
            return name
        for known, path in folders.items():
            manifest = self._read(path)
            if name.casefold() in (known.casefold(), manifest.name.casefold() if manifest else None):
                return known
        there = ", ".join(folders) or "none yet"
        raise UnknownModel(f"there is no model {name[:80]!r}; installed: {there}")

    def folder(self, name: str) -> Path:
        """Where the model is; raises UnknownModel."""
        return self._folders()[self.find(name)]

    def manifest(self, name: str) -> Manifest:
        """The model's manifest; raises UnknownModel."""
        found = self._read(folder := self.folder(name))
        if found is None:
            raise UnknownModel(f"the model in {folder.name} went while it was read")
        return found

    def disk_bytes(self, name: str) -> int:
        """How much the model takes on disk; files that packages share are counted once."""
        sizes: dict[tuple[int, int], int] = {}
        for where, _, files in os.walk(self.folder(name)):
            for file in files:
                found = os.stat(os.path.join(where, file), follow_symlinks=False)
                sizes[found.st_dev, found.st_ino] = found.st_size
        return sum(sizes.values())

    def delete(self, name: str) -> None:
        """Remove a model from the data folder, at once and whole; raises UnknownModel and NotDeletable."""
        folder = self.folder(name)
        if folder.parent != self._root:
            raise NotDeletable(f"{name} was not made here; remove its folder yourself")
        if folder.is_symlink():
            folder.unlink()
            return
        gone = self._root / f".{folder.name}{_DELETED}"
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone)

    def sweep(self) -> None:
        """Remove what is left of models whose deletion was cut short."""
        for gone in self._root.glob(f".*{_DELETED}"):
            shutil.rmtree(gone)
