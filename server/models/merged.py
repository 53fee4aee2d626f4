"""The cache of merged models: installed models with LoRAs and embeddings in their weights, the last ones used."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from converter.errors import DamagedModel, ManifestError, SpaceError
from converter.folder import ModelFolder
from converter.progress import OnProgress
from server.faults import fault_of

log = logging.getLogger("anemone.models")

#: The folder of merged models in the data folder.
MERGED = "merged"
#: The usual limit of their bytes.
MERGED_LIMIT = 20 * 10**9
#: Digits of hashes in the names of folders.
_DIGITS = 32

#: Writes a merged model into a folder and returns it.
Make = Callable[[Path, OnProgress], ModelFolder]


@dataclass(frozen=True)
class _Variant:
    """A merged model's folder, and the file that those who use it have locked."""

    folder: Path

    @property
    def lock(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.used")

    @property
    def used(self) -> float:
        """When it was last used, seconds since 1970."""
        return self.folder.stat().st_mtime

    @property
    def own_bytes(self) -> int:
        """The bytes that deleting it frees: of files that no other folder shares by a hard link."""
        links, sizes = Counter[tuple[int, int]](), dict[tuple[int, int], tuple[int, int]]()
        for path in self.folder.rglob("*"):
            stat = path.lstat()
            if path.is_file():
                inode = stat.st_dev, stat.st_ino
                links[inode] += 1
                sizes[inode] = stat.st_nlink, stat.st_size
        return sum(size for inode, (total, size) in sizes.items() if total == links[inode])

    @contextmanager
    def _locked(self, operation: int) -> Iterator[None]:
        """Lock the file; raises BlockingIOError as flock does."""
        while True:
            with self.lock.open("w") as file:
                fcntl.flock(file, operation)
                # Whoever deletes the variant deletes the file that others may have opened meanwhile.
                if self.lock.exists() and os.fstat(file.fileno()).st_ino == self.lock.stat().st_ino:
                    yield
                    return

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep others from deleting it."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(fcntl.LOCK_SH):
            yield

    def delete(self) -> bool:
        """Delete it with what a killed merge has left; return whether that was done, as nobody uses it."""
        try:
            with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
                for folder in (self.folder, *self.folder.parent.glob(f".{self.folder.name}.*")):
                    if folder.is_dir():
                        shutil.rmtree(folder, ignore_errors=True)
                    else:
                        folder.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        return True


def _present(folder: Path, progress: OnProgress) -> ModelFolder | None:
    """Return the merged model in a folder; None if there is none, or a damaged one, which is deleted."""
    try:
        model = ModelFolder.open(folder)
        model.compare(progress)
    except (ManifestError, DamagedModel) as damage:
        if folder.exists():  # the base is whole, so that it can be merged again
            log.warning("%s; it is merged again", damage)
            shutil.rmtree(folder)
        return None
    return model


class MergedModels:
    """Merged models in ``root``, of ``limit`` bytes together; of more, those used longest ago are deleted.

    What a merged model shares with its base counts as the base's. One that is in use stays, whatever its size.
    """

    def __init__(self, root: Path, limit: int = MERGED_LIMIT) -> None:
        self.root, self._limit = root, limit

    def _folder(self, content: str) -> Path:
        return self.root / content[:_DIGITS]

    @contextmanager
    def open(self, content: str, key: str, make: Make, progress: OnProgress) -> Iterator[ModelFolder]:
        """Yield a merged model, which ``make`` makes if it is not there; it stays while the context is open.

        ``content`` is a hash of the base's content, ``key`` one of what is merged. Raises what ``make`` raises; if the disk
        has no room, other merged models are deleted first.
        """
        variant = _Variant(self._folder(content) / key[:_DIGITS])
        with variant.in_use():
            folder = self._made(variant, make, progress)
            os.utime(variant.folder)
            self._make_room(self._limit)
            yield folder

    def _made(self, variant: _Variant, make: Make, progress: OnProgress) -> ModelFolder:
        if (present := _present(variant.folder, progress)) is not None:
            return present
        try:
            return make(variant.folder, progress)
        except (SpaceError, OSError) as error:
            fault = fault_of(error)
            is_full = isinstance(error, SpaceError) or (fault is not None and fault.code == "disk_full")
            if not is_full or not self._make_room(0):
                raise
        return make(variant.folder, progress)

    def _variants(self, folder: Path) -> list[_Variant]:
        """Return the merged models of one base, those that are only begun or half deleted among them."""
        names = {path.name for path in folder.glob("[!.]*")} | {path.name[1:-5] for path in folder.glob(".*.used")}
        return [_Variant(folder / name) for name in names]

    def _make_room(self, limit: int) -> bool:
        """Delete what was used longest ago while all take more bytes than the limit; return whether something was deleted."""
        variants = [each for base in self.root.glob("[!.]*/") for each in self._variants(base)]
        begun = [each for each in variants if not each.folder.exists()]
        whole = sorted((each for each in variants if each.folder.exists()), key=lambda each: each.used)
        total = sum(each.own_bytes for each in whole)
        deleted = False
        for each in begun:
            each.delete()
        for each in whole:
            if total <= limit:
                break
            size = each.own_bytes
            if each.delete():
                log.info("the merged model %s was deleted: %d MB", each.folder.name, size // 2**20)
                total, deleted = total - size, True
        return deleted

    def forget(self, content: str) -> None:
        """Delete the merged models of a base that is deleted, except for those in use."""
        folder = self._folder(content)
        deleted = [each.delete() for each in self._variants(folder)] if folder.is_dir() else []
        if deleted and all(deleted):
            shutil.rmtree(folder, ignore_errors=True)
