"""``anemone doctor``: examines this machine and its models."""

from __future__ import annotations

import argparse

from converter.lint import CHIPS, DEFAULT_CHIP
from server.cli.flags import Commands, add_command
from server.cli.parser import path, text
from server.cli.serve import add_config, settings_of


def add_doctor(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "doctor",
        "Examine this machine and its models: versions, chip, kernels, disk and memory; on what each network runs, how "
        "long it takes to load and to run; and report problems",
        "examples:\n  anemone doctor\n  anemone doctor ./sd15\n  anemone doctor anemone-demo --quick --json\n"
        "The exit status is 1 if there is a problem; the report says what to do about it. It contains no keys and no user\n"
        "name, so you can paste it into a bug report. On a Mac, Core ML's own compute plan says on what a network runs;\n"
        "elsewhere it is predicted from the package for --chip.",
    )
    command.add_argument(
        "folder",
        type=text,
        nargs="?",
        metavar="MODEL",
        help="a model's folder or name (all installed models, and that of --model)",
    )
    add_config(command)
    command.add_argument("--model", type=path, help="the model that a server would start with (the bundled one)")
    command.add_argument("--data-dir", type=path, help="the folder with the models (the user's data folder)")
    command.add_argument(
        "--chip",
        choices=CHIPS,
        default=DEFAULT_CHIP,
        help=f"the chip to predict for, if this is not a Mac ({DEFAULT_CHIP})",
    )
    command.add_argument("--quick", action="store_true", help="load and run no network")
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
    command.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from server.doctor.visit import doctor

    return doctor(settings_of(args), args.folder, args.chip, quick=args.quick, for_programs=args.json)
