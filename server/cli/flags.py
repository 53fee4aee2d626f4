"""Flags that several commands share: sizes, the model, and a conversion's options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

from converter.options import DEFAULT_OPTIONS, OPTIONS, NetworkSource, Option, Size
from server.cli.parser import path
from server.cli.serve import add_config

#: The type of what `add_subparsers` returns; a string, because the class cannot be subscripted at run time.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(commands: Commands, name: str, about: str, epilog: str) -> argparse.ArgumentParser:
    """Add a subcommand whose help ends with ``epilog``, unwrapped."""
    return commands.add_parser(
        name, help=about, description=about, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def size(text: str) -> tuple[int, int]:
    """Parse an image size in pixels, such as 512x768."""
    width, cross, height = text.lower().partition("x")
    if not cross or not width.isdigit() or not height.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; accepted: WIDTHxHEIGHT in pixels, such as 512x512")
    return int(width), int(height)


def _network_source(text: str) -> str:
    """Return a network's source as the manifest stores it: paths are absolute, so that they work from any folder."""
    file = path(text).expanduser()
    return str(file.absolute()) if file.exists() else text


def flag(option: str) -> str:
    """Return the flag of a conversion option."""
    return f"--{(OPTIONS[option].flag or option).replace('_', '-')}"


def _is_network(option: Option) -> bool:
    return option.value is NetworkSource


def _value(option: Option) -> tuple[Callable[[str], Any], tuple[Any, ...] | None, str | None]:
    """Return the function that parses an option's value, the accepted values (None for any), and the metavar."""
    if option.value is Size:
        return size, None, "WxH"
    if _is_network(option):
        return _network_source, None, "SOURCE"
    if get_origin(option.value) is Literal:
        choices = get_args(option.value)
        return type(choices[0]), choices, None
    value_type = get_args(option.value)[0] if get_origin(option.value) is Annotated else option.value
    return value_type, None, None


def add_options(command: argparse.ArgumentParser, *, networks_only: bool = False) -> None:
    """Add a flag for every conversion option, or only for those that name networks besides the checkpoint."""
    for name, option in OPTIONS.items():
        if networks_only and not _is_network(option):
            continue
        default = getattr(DEFAULT_OPTIONS, name)
        about = option.about if option.most is None else f"{option.about}; may be given several times"
        if option.value is bool and default:
            negated = f"Do not {about[0].lower()}{about[1:]}"
            command.add_argument(f"--no-{flag(name)[2:]}", dest=name, action="store_false", help=negated)
            continue
        if option.value is bool:
            command.add_argument(flag(name), dest=name, action="store_true", help=about)
            continue
        parse, choices, metavar = _value(option)
        if isinstance(default, str):
            about = f"{about} ({default})"
        command.add_argument(
            flag(name),
            dest=name,
            type=parse,
            choices=choices,
            metavar=metavar,
            action="store" if option.most is None else "append",
            help=about,
        )


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that the user set by the flags of `add_options`."""
    values = {name: getattr(args, name, None) for name in OPTIONS}
    return {n: tuple(v) if isinstance(v, list) else v for n, v in values.items() if v is not None}


def add_model(command: argparse.ArgumentParser) -> None:
    """Add flags for the model, the data folder and the settings file."""
    add_config(command)
    command.add_argument(
        "--model",
        type=path,
        help="a checkpoint or converted model folder, or owner/name on the Hugging Face hub (the bundled model)",
    )
    command.add_argument(
        "--data-dir", type=path, help="the folder for models, jobs and images (the user's data folder)"
    )
