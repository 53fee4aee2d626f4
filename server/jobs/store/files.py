"""Images and attachments as files, under random names."""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from pathlib import Path

from converter.errors import AnemoneError
from server.faults import naming

log = logging.getLogger("anemone.store")

#: The folder, beside the files, of those that no job refers to.
UNKNOWN = "unknown"
_PARTIAL = ".partial"
#: The errors by which a file system says that it has no fsync for a folder.
_NO_FOLDERS = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    except OSError as error:
        # Some network and shared disks refuse it for folders, and keep names themselves.
        if not (error.errno in _NO_FOLDERS and path.is_dir()):
            raise
    finally:
        os.close(descriptor)


class StoredFiles:
    """A folder of files with one suffix. ``bytes`` is their total size, once `sweep` has counted them."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self._folder, self._suffix = folder, suffix
        self._own = re.compile(rf"[0-9a-f]{{32}}{re.escape(suffix)}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AnemoneError(
                f"{folder} cannot be used: {error.strerror}; it must be a folder that the server's user may read and write"
            ) from error
        self.bytes = 0
        self._unsettled: list[str] = []

    def path(self, name: str) -> Path:
        """Return the path of a file."""
        return self._folder / name

    def write(self, data: bytes) -> str:
        """Write a file and return its name; make the folder again if somebody removed it.

        No file has a name before it is complete; after `settle` it survives a power cut.
        """
        name = f"{secrets.token_hex(16)}{self._suffix}"
        partial = self.path(f"{name}{_PARTIAL}")
        try:
            try:
                partial.write_bytes(data)
            except FileNotFoundError:
                # Not its parents: without the data folder, the rest would be missing too.
                self._folder.mkdir(exist_ok=True)
                log.warning("%s was removed, and is made again", self._folder)
                partial.write_bytes(data)
            partial.rename(self.path(name))
        except OSError as error:
            # On a full disk the unfinished file would take the last room.
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            error.filename = str(self._folder)  # the random name says nothing, and is another one next time
            raise
        self._unsettled.append(name)
        self.bytes += len(data)
        return name

    @contextmanager
    def removed_if_raised(self) -> Iterator[None]:
        """Delete the files that the block has written if it raises; for a start, when nobody else writes."""
        before = set(os.listdir(self._folder))
        try:
            yield
        except BaseException:
            self.remove(name for name in os.listdir(self._folder) if name not in before and self._own.fullmatch(name))
            raise

    def settle(self) -> None:
        """Wait until the written files are on the disk."""
        if not self._unsettled:
            return
        # fsync the folder last: after a power cut no name may exist without its file's content.
        for path in [*map(self.path, self._unsettled), self._folder]:
            with suppress(FileNotFoundError):  # replaced or expired meanwhile
                _sync(path)
        self._unsettled.clear()

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; those that do not exist are skipped.

        One that cannot be deleted is logged: no job refers to it any more, which the next start finds.
        """
        for name in names:
            path = self.path(name)
            try:
                size = path.lstat().st_size
                path.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("%s cannot be deleted: %s", path, error.strerror)
                continue
            self.bytes -= size

    def sweep(self, referenced: AbstractSet[str]) -> int:
        """Move the files that no job refers to into `UNKNOWN`, and return their number; add up the others' sizes in ``bytes``.

        Such files are left by a server that was killed between a file and its row, or by a database that was lost; files
        that a job refers to come back from `UNKNOWN`. Unfinished files are deleted. Files whose names are not the server's
        own are somebody else's, and stay. Whatever is in a file's place, a folder or a link to a disk that is away, stays too.
        """
        self._bring_back(referenced)
        self.bytes, moved = 0, 0
        for entry in list(os.scandir(self._folder)):
            if entry.name in referenced:
                # Not followed: a link may lead nowhere, and deleting one frees only its own bytes.
                self.bytes += entry.stat(follow_symlinks=False).st_size
            elif self._own.fullmatch(entry.name):
                moved += self._move_aside(entry.name)
            elif self._own.fullmatch(entry.name.removesuffix(_PARTIAL)):
                self._delete_unfinished(Path(entry.path))
        return moved

    @staticmethod
    def _delete_unfinished(path: Path) -> None:
        try:
            path.unlink()
        except OSError as error:
            log.warning("%s, which is unfinished, cannot be deleted: %s", path, error.strerror)

    def _move_aside(self, name: str) -> bool:
        try:
            unknown = self._folder / UNKNOWN
            unknown.mkdir(mode=0o700, exist_ok=True)
            self.path(name).rename(unknown / name)
        except OSError as error:  # it takes room, but keeps nothing from working
            log.warning("%s, to which no job refers, cannot be moved aside: %s", self.path(name), error.strerror)
            return False
        return True

    def _bring_back(self, referenced: AbstractSet[str]) -> None:
        unknown = self._folder / UNKNOWN
        if not unknown.is_dir():
            return
        for name in referenced & set(os.listdir(unknown)):
            if not self.path(name).exists():
                (unknown / name).rename(self.path(name))
