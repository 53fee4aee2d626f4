"""What a peer runs from, written once: whole or not at all, so that an export that was killed is not taken for one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path


def exported(folder: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` fill a new folder and call it ``folder``, unless that is there already."""
    if folder.is_dir():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    partial.rename(folder)
