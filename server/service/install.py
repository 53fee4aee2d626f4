"""Installs and removes the system's unit that runs the server, and reports its status."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from converter.errors import AnemoneError
from server.service.launchd import agent
from server.service.systemd import user_unit
from server.service.unit import Command, Unit

#: Runs a command and returns its exit status and its output.
Run = Callable[[Command], tuple[int, str]]


class ServiceError(AnemoneError):
    """The system does not accept the service."""


def run_command(command: Command) -> tuple[int, str]:
    """Run a command; the status is 127 if the program is missing, as in a shell."""
    if shutil.which(command[0]) is None:
        return 127, f"{command[0]} is not installed"
    process = subprocess.run(command, capture_output=True, text=True)
    return process.returncode, (process.stderr or process.stdout).strip()


def this_unit(program: tuple[str, ...], stop_seconds: float) -> Unit:
    """Return the unit for this machine's system and this user."""
    if sys.platform == "darwin":
        return agent(program, Path.home(), os.getuid(), stop_seconds)
    return user_unit(program, Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"), stop_seconds)


def _run_all(commands: tuple[Command, ...], run: Run) -> None:
    for command in commands:
        status, output = run(command)
        if status:
            raise ServiceError(f"`{' '.join(command)}` failed ({status}): {output}")


def install(unit: Unit, run: Run = run_command) -> str:
    """Write and start the unit and return a message for its owner. A ServiceError leaves the written file in place."""
    for folder in (unit.path.parent, *unit.folders):
        folder.mkdir(parents=True, exist_ok=True)
    partial = unit.path.with_name(f".{unit.path.name}.new")
    partial.write_bytes(unit.content)
    partial.replace(unit.path)
    for command in unit.forget:
        run(command)
    try:
        _run_all(unit.load, run)
    except ServiceError as error:
        raise ServiceError(f"{unit.path} was written, but {unit.system} does not load it: {error}") from error
    return f"{unit.path} was written and loaded\nlog: {unit.logs}\n{unit.note}"


def uninstall(unit: Unit, run: Run = run_command) -> str:
    """Stop the service, remove its file and return a message for its owner; a missing file is not an error."""
    if not unit.path.exists():
        return f"{unit.path} does not exist; nothing to remove"
    failures = [f"`{' '.join(c)}`: {output}" for c in unit.unload for status, output in [run(c)] if status]
    unit.path.unlink()
    return "\n".join([f"{unit.path} was removed; models, jobs and images stay", *failures])


def status(unit: Unit, run: Run = run_command) -> tuple[bool, str]:
    """Return whether the service runs, and a message for its owner."""
    if not unit.path.exists():
        return False, "not installed; run `anemone service install`"
    failed, output = run(unit.status)
    if failed:
        return (
            False,
            f"installed ({unit.path}), not running: {output.splitlines()[0] if output else failed}\nlog: {unit.logs}",
        )
    return True, f"running ({unit.path})\nlog: {unit.logs}"
