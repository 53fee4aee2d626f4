"""``anemone service``: have the system run the server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from converter.errors import AnemoneError
from server.cli.flags import Commands
from server.service.install import install, status, this_unit, uninstall
from server.settings import load_settings

#: `anemone serve` flags that a service is given; the others come from its settings file.
_FLAGS = ("config", "host", "port", "data_dir", "model")


def add_service(commands: Commands) -> None:
    """Add the command and its flags."""
    command = commands.add_parser(
        "service",
        help="Have the system run the server, from login on",
        description="Have the system run the server: a launchd agent on a Mac, a systemd user unit on Linux. It is "
        "started again after a crash.",
        epilog="examples:\n  anemone service install\n  anemone service install --model ./sd15 --port 8080\n"
        "  anemone service print --config ~/anemone.toml\n  anemone service status\n"
        "What is not given here comes from the settings file; keys and tokens belong there, not into the service.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "action",
        choices=("install", "uninstall", "status", "print"),
        help="install writes the service and starts it; print shows what install would write",
    )
    command.add_argument("--config", type=Path, help="the settings file (TOML)")
    command.add_argument("--host", help="address to listen on")
    command.add_argument("--port", type=int, help="port to listen on")
    command.add_argument("--data-dir", type=Path, help="where models, jobs and pictures are kept")
    command.add_argument("--model", type=Path, help="a checkpoint, a converted model, or owner/name on the hub")
    command.set_defaults(run=_service)


def _program(given: argparse.Namespace) -> tuple[str, ...]:
    """What the system is to run: this Python with this server, wherever it is run from."""
    words = [sys.executable, "-m", "server", "serve"]
    for flag in _FLAGS:
        value = getattr(given, flag)
        if value is None:
            continue
        if isinstance(value, Path) and (value.expanduser().exists() or flag != "model"):
            value = value.expanduser().absolute()  # the system starts it elsewhere; owner/name stays as it is
        words += [f"--{flag.replace('_', '-')}", str(value)]
    return tuple(words)


def _service(given: argparse.Namespace) -> int:
    flags = {flag: v for flag in _FLAGS if flag != "config" and (v := getattr(given, flag)) is not None}
    settings = load_settings(flags, given.config)  # what a server would refuse is told now, not in its log
    unit = this_unit(_program(given), settings.shutdown_seconds)
    if given.action == "print":
        sys.stdout.write(unit.content.decode())
        return 0
    if given.action == "status":
        runs, said = status(unit)
        print(said)
        return 0 if runs else 3  # as systemctl
    try:
        print(install(unit) if given.action == "install" else uninstall(unit))
    except OSError as error:
        raise AnemoneError(f"{unit.path} cannot be written: {error.strerror}") from error
    return 0
