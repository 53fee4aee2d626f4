"""A service as its system wants it described: a file, and the commands that load it. Nothing is run here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Command = tuple[str, ...]


@dataclass(frozen=True)
class Unit:
    """What there is to write and to run.

    system: launchd or systemd, as people know it.
    path, content: the file.
    folders: to be there before it is loaded.
    forget: makes the system let go of an earlier one; that there is none is no failure.
    load, unload: have it run, from now and after every start; and no more.
    status: succeeds while it runs.
    logs: where what it says can be read.
    note: what else its owner may want to know.
    """

    system: str
    path: Path
    content: bytes
    folders: tuple[Path, ...]
    forget: tuple[Command, ...]
    load: tuple[Command, ...]
    unload: tuple[Command, ...]
    status: Command
    logs: str
    note: str
