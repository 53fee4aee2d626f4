"""``anemone lint``: what would leave the Neural Engine."""

from __future__ import annotations

import argparse
from pathlib import Path

from converter.lint import CHIPS, DEFAULT_CHIP, lint
from server.cli.flags import Commands, add_command


def add_lint(commands: Commands) -> None:
    """Add the command and its flags."""
    check = add_command(
        commands,
        "lint",
        "Tell what in a model's packages would leave the Neural Engine, slow it, or lose precision, by public reports; "
        "nothing is run",
        "examples:\n  anemone lint ./sd15\n  anemone lint Unet.mlpackage --chip M5 --notes\n"
        "The exit status is 1 where there is an error or a warning.",
    )
    check.add_argument("folder", type=Path, help="a model folder, a folder of packages, or one .mlpackage or .mlmodelc")
    check.add_argument("--chip", choices=CHIPS, default=DEFAULT_CHIP, help=f"the chip to judge for ({DEFAULT_CHIP})")
    check.add_argument("--notes", action="store_true", help="also what is worth knowing and nothing to act on")
    check.set_defaults(run=_lint)


def _lint(given: argparse.Namespace) -> int:
    text, status = lint(given.folder, given.chip, notes=given.notes)
    print(text)
    return status
