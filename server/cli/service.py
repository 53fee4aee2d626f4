"""``anemone service``: makes the operating system run the server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from converter.errors import AnemoneError
from server.cli.flags import Commands
from server.cli.parser import path
from server.service.install import install, status, this_unit, uninstall
from server.settings import load_settings

#: The `anemone serve` flags that a service may have; all other settings come from its settings file.
_FLAGS = ("config", "host", "port", "data_dir", "model")


def add_service(commands: Commands) -> None:
    """Add the command and its flags."""
    command = commands.add_parser(
        "service",
        help="Make the system run the server, from login on",
        description="Make the system run the server: as a launchd agent on a Mac, as a systemd user unit on Linux. The "
        "system restarts it after a crash.",
        epilog="examples:\n  anemone service install\n  anemone service install --model ./sd15 --port 8080\n"
        "  anemone service print --config ~/anemone.toml\n  anemone service status\n"
        "All other settings come from the settings file; put keys and tokens there, not into the service.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "action",
        choices=("install", "uninstall", "status", "print"),
        help="install writes the service and starts it; print shows what install would write",
    )
    command.add_argument("--config", type=path, help="the settings file (TOML)")
    command.add_argument("--host", help="address to listen on")
    command.add_argument("--port", type=int, help="port to listen on")
    command.add_argument("--data-dir", type=path, help="the folder for models, jobs and images")
    command.add_argument("--model", type=path, help="a checkpoint, a converted model, or owner/name on the hub")
    command.set_defaults(run=_service)


def _program(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the command that the system runs: this Python with this server, from any folder."""
    words = [sys.executable, "-m", "server", "serve"]
    for flag in _FLAGS:
        value = getattr(args, flag)
        if value is None:
            continue
        if isinstance(value, Path) and (value.expanduser().exists() or flag != "model"):
            value = value.expanduser().absolute()  # the system starts it in another folder; owner/name stays as it is
        words += [f"--{flag.replace('_', '-')}", str(value)]
    return tuple(words)


def _service(args: argparse.Namespace) -> int:
    flags = {flag: v for flag in _FLAGS if flag != "config" and (v := getattr(args, flag)) is not None}
    settings = load_settings(flags, args.config)  # report wrong settings now, not later in the log
    unit = this_unit(_program(args), settings.shutdown_seconds)
    if args.action == "print":
        sys.stdout.buffer.write(unit.content)  # escapes for a terminal would change it
        return 0
    if args.action == "status":
        is_running, message = status(unit)
        print(message)
        return 0 if is_running else 3  # like systemctl
    try:
        print(install(unit) if args.action == "install" else uninstall(unit))
    except OSError as error:
        raise AnemoneError(f"{unit.path} cannot be written: {error.strerror}") from error
    return 0
