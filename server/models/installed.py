"""The installed models: all model folders in the data folder, and those given by path outside of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from converter.errors import AnemoneError, ManifestError
from converter.manifest import FILE, Manifest
from converter.sources.snapshot import short_name
from server.faults import fault_of
from server.models.merged import MERGED, MergedModels
from server.models.paths import without_paths

#: A folder's modification time is relied on once it is this old (ns): some file systems only store whole seconds.
_SETTLED_NS = 2_000_000_000
#: Suffix of a hidden folder that is being deleted.
_DELETED = ".deleted"


class UnknownModel(AnemoneError):
    """No installed model has this name."""


class NotDeletable(AnemoneError):
    """The model's folder is outside the data folder, so the server does not delete it."""


def _require_lasting(error: ManifestError) -> None:
    """Raise the error's cause if it passes: a model that is listed as damaged meanwhile would fail its jobs."""
    cause = error.__cause__
    if isinstance(cause, OSError) and (fault := fault_of(cause)) and fault.code in ("too_many_files", "no_resources"):
        raise cause from error


def content_hash(manifest: Manifest) -> str:
    """Return a hash of what a model computes, the same on every machine.

    It covers the source's weights, the conversion's plan and the packages.
    """
    packages = {network: [asdict(p) for p in each] for network, each in manifest.networks.items()}
    identity = json.dumps([manifest.source.sha256, manifest.plan, packages], sort_keys=True, default=str)
    return hashlib.sha256(identity.encode()).hexdigest()


@dataclass(frozen=True)
class InstalledModel:
    """A model with the name that requests use."""

    name: str
    folder: Path
    manifest: Manifest


#: The state of a file or folder: modification time (ns), size and inode; None if it does not exist.
_Stamp = tuple[int, int, int] | None


def _stamp(path: str) -> _Stamp:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


@dataclass(frozen=True)
class _Listing:
    """The models of one scan, and the stamps of everything it read, by path."""

    models: dict[str, InstalledModel]
    #: The folders whose manifest is damaged, with the reason.
    damaged: dict[str, str]
    root: tuple[str, _Stamp]
    manifests: dict[str, _Stamp]
    #: The manifests outside the models folder; their models get their names first.
    extra: tuple[str, ...]
    #: Whether the models folder had not changed for so long that a later change cannot have the same stamp.
    is_settled: bool

    def holds_for(self, manifests: Iterable[str]) -> bool:
        """Return whether the models folder, and these manifests in it, are unchanged."""
        if not self.is_settled or _stamp(self.root[0]) != self.root[1]:
            return False
        return all(_stamp(path) == self.manifests[path] for path in (*self.extra, *manifests))


class InstalledModels:
    """Converted model folders by name: those in ``data_dir``/models, and ``extra`` ones anywhere else.

    A model's name is its folder's. If two folders share a name, the ``extra`` one keeps it and the other becomes
    ``name-2``. Changes on disk take effect at once: the folder is read again when its stamp or a manifest's has changed.
    """

    def __init__(self, data_dir: Path, extra: tuple[Path, ...] = (), default: str | None = None) -> None:
        """``default`` is the model of requests without a model; None: the first of ``extra``."""
        self._root, self._extra = data_dir / "models", extra
        self._default = default or (short_name(extra[0]) if extra else None)
        self._scanned: _Listing | None = None

    @property
    def root(self) -> Path:
        """The folder of the server's own models."""
        return self._root

    @property
    def default(self) -> str | None:
        """The model of requests without a model; None if no model is installed. It may still be converting."""
        if self._default is not None:
            return self._default
        return next(iter(self.names()), None)

    def _listing(self) -> _Listing:
        """Return the last listing if nothing has changed since, or else a new one."""
        last = self._scanned
        if last is not None and last.holds_for(last.manifests):
            return last
        self._scanned = listing = self._scan(last)
        return listing

    def _scan(self, last: _Listing | None) -> _Listing:
        known = {} if last is None else {str(m.folder / FILE): m.manifest for m in last.models.values()}
        before, root = time.time_ns(), (str(self._root), _stamp(str(self._root)))
        # Hidden folders are being converted or deleted; a name that is not printable cannot be requested either.
        paths = self._root.iterdir() if self._root.is_dir() else ()
        own = sorted(p for p in paths if p.name[0] != "." and p.name.isprintable())
        models: dict[str, InstalledModel] = {}
        damaged: dict[str, str] = {}
        stamps: dict[str, _Stamp] = {}
        for path in dict.fromkeys((*self._extra, *own)):
            file = str(path / FILE)
            stamps[file] = _stamp(file)
            is_known = last is not None and file in known and last.manifests[file] == stamps[file]
            try:
                manifest = known[file] if is_known else Manifest.read(path)
            except ManifestError as error:
                _require_lasting(error)
                if os.path.lexists(file):  # other folders belong to somebody else
                    damaged[path.name] = without_paths(str(error), (path,))
                continue
            # An extra path may be "."; a link in the models folder keeps its own name.
            base, number = path.name if path.parent == self._root else short_name(path), 1
            while (name := base if number == 1 else f"{base}-{number}") in models:
                number += 1
            models[name] = InstalledModel(name, path, manifest)
        is_settled = root[1] is None or root[1][0] < before - _SETTLED_NS
        extra = tuple(str(path / FILE) for path in self._extra)
        return _Listing(models, damaged, root, stamps, extra, is_settled)

    def names(self) -> tuple[str, ...]:
        """Return the names of all models, those outside the data folder first."""
        return tuple(self._listing().models)

    def all(self) -> tuple[InstalledModel, ...]:
        """Return all models, in the order of `names`."""
        return tuple(self._listing().models.values())

    def damaged(self) -> dict[str, str]:
        """Return the folders whose manifest is damaged, by name, with the reason; they are not installed."""
        return dict(self._listing().damaged)

    def cached(self, name: str | None) -> InstalledModel | None:
        """Return the model with exactly this name (None: the default model), if that needs no scan.

        It reads two stamps only, so that an event loop may call it; if it returns None, call `get` in a thread.
        """
        listing = self._scanned
        if listing is None:
            return None
        exact = self._default or next(iter(listing.models), None) if name is None else name
        model = None if exact is None else listing.models.get(exact)
        return model if model is not None and listing.holds_for((str(model.folder / FILE),)) else None

    def get(self, name: str) -> InstalledModel:
        """Return the model by its name or its manifest's, in any case; raises UnknownModel, which lists the installed ones."""
        models = self._listing().models
        if name in models:
            return models[name]
        for model in models.values():
            if name.casefold() in (model.name.casefold(), model.manifest.name.casefold()):
                return model
        if (reason := self._listing().damaged.get(name)) is not None:
            raise UnknownModel(f"the model {name} is damaged: {reason}; convert it again")
        raise UnknownModel(f"there is no model {name[:80]!r}; installed: {', '.join(models) or 'none yet'}")

    def find(self, name: str) -> str:
        """Return the model's own name; raises UnknownModel."""
        return self.get(name).name

    def folder(self, name: str) -> Path:
        """Return the model's folder; raises UnknownModel."""
        return self.get(name).folder

    def manifest(self, name: str) -> Manifest:
        """Return the model's manifest; raises UnknownModel."""
        return self.get(name).manifest

    def content_hash(self, name: str) -> str:
        """Return `content_hash` of the model; raises UnknownModel."""
        return content_hash(self.manifest(name))

    def disk_bytes(self, name: str) -> int:
        """Return the model's bytes on disk; files that packages share are counted once."""
        sizes: dict[tuple[int, int], int] = {}
        for folder, _, files in os.walk(self.folder(name)):
            for file in files:
                stat = os.stat(os.path.join(folder, file), follow_symlinks=False)
                sizes[stat.st_dev, stat.st_ino] = stat.st_size
        return sum(sizes.values())

    def delete(self, name: str) -> None:
        """Delete a model's folder in the data folder, by one rename; raises UnknownModel and NotDeletable."""
        folder = self.folder(name)
        if folder.parent != self._root:
            raise NotDeletable(f"{name} is outside the data folder; delete its folder yourself")
        # They keep the files that they share with it on the disk.
        MergedModels(self._root.parent / MERGED).forget(self.content_hash(name))
        if folder.is_symlink():
            folder.unlink()
            return
        hidden = self._root / f".{folder.name}{_DELETED}"
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
        shutil.rmtree(hidden)

    def sweep(self) -> None:
        """Delete the rest of models whose deletion was interrupted."""
        for hidden in self._root.glob(f".*{_DELETED}"):
            shutil.rmtree(hidden)
