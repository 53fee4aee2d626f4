"""Real outages of this process's disk and database, which need no rights: no room, no more files, a locked database."""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

__all__ = ["locked", "no_more_files", "no_room"]


@contextmanager
def no_room() -> Iterator[None]:
    """Have every write to a file fail. To be used where nothing prints: pytest captures into a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def no_more_files() -> Iterator[None]:
    """Have the process use up the files that it may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 8, hard))
        try:
            while True:
                files.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            yield
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Lock a database for writing, as another program does."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
