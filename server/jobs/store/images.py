"""Finished images, stored under random file names."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class ImageFiles:
    """A folder of images. ``bytes`` is what they take together, once `sweep` has counted them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.bytes = 0
        self._unsettled: list[str] = []

    def path(self, name: str) -> Path:
        """Where a image's file is."""
        return self._folder / name

    def write(self, png: bytes) -> str:
        """Keep a image; its name, which is never that of half a one, and outlives a power cut after `settle`."""
        name = f"{secrets.token_hex(16)}.png"
        partial = self.path(f"{name}.partial")
        partial.write_bytes(png)
        partial.rename(self.path(name))
        self._unsettled.append(name)
        self.bytes += len(png)
        return name

    def settle(self) -> None:
        """Wait until what was written is on the disk. Not done by `write`, whose caller's client is waiting."""
        if not self._unsettled:
            return
        # The files before the folder: a name must not outlive a power cut without its content.
        for path in [*map(self.path, self._unsettled), self._folder]:
            with suppress(FileNotFoundError):  # replaced or expired meanwhile
                opened = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(opened)
                finally:
                    os.close(opened)
        self._unsettled.clear()

    def remove(self, names: Iterable[str]) -> None:
        """Delete images; those that are gone already are."""
        for name in names:
            path = self.path(name)
            try:
                size = path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                continue
            self.bytes -= size

    def sweep(self, known: set[str]) -> int:
        """Delete what no job knows of (left by a kill between file and entry), count the rest; how many were deleted."""
        self.bytes, swept = 0, 0
        for entry in os.scandir(self._folder):
            if entry.name in known:
                self.bytes += entry.stat().st_size
            elif entry.name.endswith((".png", ".partial")):
                Path(entry.path).unlink()
                swept += 1
        return swept
