"""``anemone lint``: finds what would leave the Neural Engine."""

from __future__ import annotations

import argparse

from converter.lint import CHIPS, DEFAULT_CHIP, lint
from server.cli.flags import Commands, add_command
from server.cli.parser import path


def add_lint(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "lint",
        "Report what in a model's packages would leave the Neural Engine, slow it down or lose precision, according to "
        "public reports; no network is run",
        "examples:\n  anemone lint ./sd15\n  anemone lint Unet.mlpackage --chip M5 --notes\n"
        "The exit status is 1 if there is an error or a warning.",
    )
    command.add_argument(
        "folder", type=path, help="a model folder, a folder of packages, or one .mlpackage or .mlmodelc"
    )
    command.add_argument("--chip", choices=CHIPS, default=DEFAULT_CHIP, help=f"judge for this chip ({DEFAULT_CHIP})")
    command.add_argument("--notes", action="store_true", help="also show notes, which need no action")
    command.set_defaults(run=_lint)


def _lint(args: argparse.Namespace) -> int:
    text, status = lint(args.folder, args.chip, notes=args.notes)
    print(text)
    return status
