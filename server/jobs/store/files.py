"""Images and attachments as files, under random names."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class StoredFiles:
    """A folder of files with one suffix. ``bytes`` is their total size, once `sweep` has counted them."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self._folder, self._suffix = folder, suffix
        folder.mkdir(parents=True, exist_ok=True)
        self.bytes = 0
        self._unsettled: list[str] = []

    def path(self, name: str) -> Path:
        """Return the path of a file."""
        return self._folder / name

    def write(self, data: bytes) -> str:
        """Write a file and return its name. No file has a name before it is complete; after `settle` it survives a power cut."""
        name = f"{secrets.token_hex(16)}{self._suffix}"
        partial = self.path(f"{name}.partial")
        try:
            partial.write_bytes(data)
            partial.rename(self.path(name))
        except OSError:
            # On a full disk the unfinished file would take the last room.
            partial.unlink(missing_ok=True)
            raise
        self._unsettled.append(name)
        self.bytes += len(data)
        return name

    def settle(self) -> None:
        """Wait until the written files are on the disk."""
        if not self._unsettled:
            return
        # fsync the folder last: after a power cut no name may exist without its file's content.
        for path in [*map(self.path, self._unsettled), self._folder]:
            with suppress(FileNotFoundError):  # replaced or expired meanwhile
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        self._unsettled.clear()

    def remove(self, names: Iterable[str]) -> None:
        """Delete files; those that do not exist are skipped."""
        for name in names:
            path = self.path(name)
            try:
                size = path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                continue
            self.bytes -= size

    def sweep(self, referenced: set[str]) -> int:
        """Delete the files that no job refers to (the server was killed between file and row); return their number.

        ``referenced`` are the names that jobs refer to; their sizes are counted in ``bytes``.
        """
        self.bytes, deleted = 0, 0
        for entry in os.scandir(self._folder):
            if entry.name in referenced:
                self.bytes += entry.stat().st_size
            elif entry.name.endswith((self._suffix, ".partial")):
                Path(entry.path).unlink()
                deleted += 1
        return deleted
