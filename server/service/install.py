"""Writing a unit and having the system load it, and the way back."""

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

#: Runs a command: its exit status and what it said.
Run = Callable[[Command], tuple[int, str]]


class ServiceError(AnemoneError):
    """The system does not take the service."""


def run_command(command: Command) -> tuple[int, str]:
    """Run it; 127 where there is no such program, as in a shell."""
    if shutil.which(command[0]) is None:
        return 127, f"{command[0]} is not there"
    ran = subprocess.run(command, capture_output=True, text=True)
    return ran.returncode, (ran.stderr or ran.stdout).strip()


def this_unit(program: tuple[str, ...], stop_seconds: float) -> Unit:
    """The unit of this machine's system, for this user."""
    if sys.platform == "darwin":
        return agent(program, Path.home(), os.getuid(), stop_seconds)
    return user_unit(program, Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"), stop_seconds)


def _all(commands: tuple[Command, ...], run: Run) -> None:
    for command in commands:
        status, said = run(command)
        if status:
            raise ServiceError(f"`{' '.join(command)}` failed ({status}): {said}")


def install(unit: Unit, run: Run = run_command) -> str:
    """Write the unit and have it run; what to tell its owner. Raises ServiceError, the file being written by then."""
    for folder in (unit.path.parent, *unit.folders):
        folder.mkdir(parents=True, exist_ok=True)
    beside = unit.path.with_name(f".{unit.path.name}.new")
    beside.write_bytes(unit.content)
    beside.replace(unit.path)
    for command in unit.forget:
        run(command)
    try:
        _all(unit.load, run)
    except ServiceError as error:
        raise ServiceError(f"{unit.path} is written, but {unit.system} does not load it: {error}") from error
    return f"{unit.path} is written and loaded\nlog: {unit.logs}\n{unit.note}"


def uninstall(unit: Unit, run: Run = run_command) -> str:
    """Stop the service and remove its file; what to tell its owner. That there is none is no failure."""
    if not unit.path.exists():
        return f"there is no {unit.path}; nothing to remove"
    said = [f"`{' '.join(c)}`: {told}" for c in unit.unload for status, told in [run(c)] if status]
    unit.path.unlink()
    return "\n".join([f"{unit.path} is removed; models, jobs and pictures stay", *said])


def status(unit: Unit, run: Run = run_command) -> tuple[bool, str]:
    """Whether the service runs, and what to tell its owner."""
    if not unit.path.exists():
        return False, "not installed; `anemone service install` does"
    failed, said = run(unit.status)
    if failed:
        return (
            False,
            f"installed ({unit.path}), not running: {said.splitlines()[0] if said else failed}\nlog: {unit.logs}",
        )
    return True, f"running ({unit.path})\nlog: {unit.logs}"
