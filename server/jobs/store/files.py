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
        """Write a file and return its name, which is never that of half a file, and outlives a power cut after `settle`."""
        name = f"{secrets.token_hex(16)}{self._suffix}"
        partial = self.path(f"{name}.partial")
        partial.write_bytes(data)
        partial.rename(self.path(name))
        self._unsettled.append(name)
        self.bytes += len(data)
        return name

    def settle(self) -> None:
        """Wait until what was written is on the disk."""
        if not self._unsettled:
            return
        # The folder last: a name must not outlive a power cut without what it names.
        for path in [*map(self.path, self._unsettled), self._folder]:
            with suppress(FileNotFoundError):  # replaced or expired meanwhile
                opened = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(opened)
                finally:
                    os.close(opened)
        self._unsettled.clear()

    def remove(self, names: Iterable[str]) -> None:
        """Delete files, those that exist."""
        for name in names:
            path = self.path(name)
            try:
                size = path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                continue
            self.bytes -= size

    def sweep(self, known: set[str]) -> int:
        """Delete files that no job has (a kill came between file and row), count the others; return how many it deleted."""
        self.bytes, swept = 0, 0
        for entry in os.scandir(self._folder):
            if entry.name in known:
                self.bytes += entry.stat().st_size
            elif entry.name.endswith((self._suffix, ".partial")):
                Path(entry.path).unlink()
                swept += 1
        return swept
