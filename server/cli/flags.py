"""What several commands share: how a subcommand is added, sizes, a model, networks beside a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TypeAlias

from server.cli.serve import add_config

#: What `add_subparsers` returns, whose class takes no parameters when the program runs.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(commands: Commands, name: str, about: str, epilog: str) -> argparse.ArgumentParser:
    """A subcommand whose help ends with ``epilog``, as it is written."""
    return commands.add_parser(
        name, help=about, description=about, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def size(text: str) -> tuple[int, int]:
    """A picture size in pixels, written 512x768."""
    width, cross, height = text.lower().partition("x")
    if not cross or not width.isdigit() or not height.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; accepted: WIDTHxHEIGHT in pixels, such as 512x512")
    return int(width), int(height)


def add_components(command: argparse.ArgumentParser) -> None:
    """Add flags for networks beside the checkpoint's own, each a folder or an address on the hub."""
    command.add_argument("--vae", metavar="SOURCE", help="an autoencoder in place of the checkpoint's")
    command.add_argument("--preview", metavar="SOURCE", help="a tiny autoencoder (TAESD) for previews")
    command.add_argument("--safety-checker", metavar="SOURCE", help="a safety checker, or a checkpoint with one")
    command.add_argument(
        "--controlnet", action="append", metavar="SOURCE", help="a ControlNet; may be given several times"
    )


def components(given: argparse.Namespace) -> dict[str, Any]:
    """What those flags name, opened, as options of a conversion. Raises CheckpointError."""
    from server.cli.offline import open_component

    return {
        "vae": open_component(given.vae, "vae"),
        "preview": open_component(given.preview),
        "safety_checker": open_component(given.safety_checker, "safety_checker"),
        "controlnets": tuple(net for source in given.controlnet or () if (net := open_component(source))),
    }


def add_model(command: argparse.ArgumentParser) -> None:
    """Add flags for the model, the data folder and the settings file."""
    add_config(command)
    command.add_argument(
        "--model",
        type=Path,
        help="a checkpoint or converted model folder, or owner/name on the Hugging Face hub (the bundled model)",
    )
    command.add_argument(
        "--data-dir", type=Path, help="where models, jobs and pictures are kept (the user's data folder)"
    )
