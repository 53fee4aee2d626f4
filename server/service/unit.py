"""The description of a service for its system: a file, and the commands that load it. Runs nothing itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Command = tuple[str, ...]


@dataclass(frozen=True)
class Unit:
    """The file and the commands of a service.

    system: launchd or systemd.
    path, content: the file.
    folders: folders that must exist before the service is loaded.
    forget: unloads an earlier version; its failure is ignored.
    load, unload: start the service, now and at every login; stop it and do not start it again.
    status: succeeds while the service runs.
    logs: the path of the log, or the command that shows it.
    note: further information for the owner.
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
