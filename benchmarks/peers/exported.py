"""Writes the files that a peer runs from, once and atomically, so that a killed export leaves no partial folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path


def export_once(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a new folder, then rename it to ``folder``; do nothing if ``folder`` exists."""
    if folder.is_dir():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    partial.rename(folder)
