"""``anemone serve``: serves images, with a flag for every setting."""

from __future__ import annotations

import argparse
from typing import Any

from server.cli.parser import path
from server.settings import Settings, default_config, load_settings

#: Other users can see process arguments, so the API key is not a flag.
_NO_FLAG = ("api_key",)
_METAVARS = {"host": "ADDRESS", "data_dir": "DIR", "tls_cert": "FILE", "tls_key": "FILE", "compute_units": "JSON"}


def add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its flags."""
    command = commands.add_parser(
        "serve",
        help="Serve images over HTTP",
        description="Serve images over HTTP, to this machine unless --host says otherwise.",
        epilog="examples:\n  anemone serve\n  anemone serve --port 8080 --model ./my-checkpoint\n"
        "  anemone serve --host 0.0.0.0 --tls\n"
        "Every flag is also an environment variable (ANEMONE_PORT=8080) and a line of the settings file (port = 8080).\n"
        "Flags override variables, and variables override the file. The API key has no flag: use ANEMONE_API_KEY or the\n"
        "file.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config(command)
    for name, field in Settings.model_fields.items():
        if name in _NO_FLAG:
            continue
        about = f"{field.description}{_default(name, field.default)}".replace("%", "%%")
        flag = f"--{name.replace('_', '-')}"
        if field.annotation is bool:
            command.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=about)
        else:
            command.add_argument(flag, metavar=_METAVARS.get(name, "VALUE"), help=about)
    command.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    from server.cli.serving import serve

    return serve(settings_of(args))


def add_config(command: argparse.ArgumentParser) -> None:
    """Add the flag that names the settings file."""
    command.add_argument("--config", type=path, metavar="FILE", help=f"the settings file, TOML ({default_config()})")


def _default(name: str, value: Any) -> str:
    shown = {"model": "the bundled model", "data_dir": "the user's data folder", "compute_units": ""}.get(name, value)
    if isinstance(shown, bool) or shown in (None, "", ()):
        return ""
    return f" ({shown})"


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the settings from a command's flags, variables and file. Raises AnemoneError naming what is wrong."""
    flags = {name: getattr(args, name, None) for name in Settings.model_fields}
    return load_settings({name: value for name, value in flags.items() if value is not None}, args.config)
