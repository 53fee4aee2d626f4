"""``anemone doctor``: what this machine and its models are, and what is wrong."""

from __future__ import annotations

import argparse
from pathlib import Path

from converter.lint import CHIPS, DEFAULT_CHIP
from server.cli.flags import Commands, add_command
from server.cli.serve import add_config, settings_of


def add_doctor(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "doctor",
        "Examine this machine and its models: versions, chip, kernels, disk and memory, what each network runs on, how "
        "long it takes to load and to run, and what is wrong",
        "examples:\n  anemone doctor\n  anemone doctor ./sd15\n  anemone doctor anemone-demo --quick --json\n"
        "The exit status is 1 where something is wrong; what to do stands beside it. The report holds no keys and no user\n"
        "name, so that it can go into a bug report. On a Mac what a network runs on is Core ML's own compute plan;\n"
        "elsewhere it is predicted from the package for --chip.",
    )
    command.add_argument(
        "folder", nargs="?", metavar="MODEL", help="a model's folder or name (all that are installed, and --model's)"
    )
    add_config(command)
    command.add_argument("--model", type=Path, help="the model a server would begin with (the bundled one)")
    command.add_argument("--data-dir", type=Path, help="where models are kept (the user's data folder)")
    command.add_argument(
        "--chip", choices=CHIPS, default=DEFAULT_CHIP, help=f"off a Mac, predict for it ({DEFAULT_CHIP})"
    )
    command.add_argument("--quick", action="store_true", help="load and run no network")
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=_doctor)


def _doctor(given: argparse.Namespace) -> int:
    from server.doctor.visit import doctor

    return doctor(settings_of(given), given.folder, given.chip, quick=given.quick, for_programs=given.json)
