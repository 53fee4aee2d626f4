"""``anemone adopt``: a folder of Apple's converter as a model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from converter.apple import ACCEPTED, AppleSettings, adopt, option
from server.cli.flags import Commands, add_command


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


#: How the settings of a folder made by Apple's converter are read.
_APPLE: dict[str, Callable[[str], Any]] = {
    "name": str,
    "prediction_type": str,
    "vae_scaling_factor": float,
    "scheduler_config": Path,
    "tokenizer": Path,
    "zeros_for_no_prompt": _truth,
    "steps": int,
    "guidance_scale": float,
}


def add_adopt(commands: Commands) -> None:
    """Add the command and its flags."""
    taken = add_command(
        commands,
        "adopt",
        "Use a folder made by Apple's converter as a model, as it is",
        "example:\n  anemone adopt ./coreml-stable-diffusion-2-1-base --prediction-type epsilon\n"
        "What Apple's packages do not say is asked for by name, once; it is kept in the folder's anemone.json.",
    )
    taken.add_argument("folder", type=Path, help="a folder of Apple's .mlpackages or its compiled Resources")
    for field in fields(AppleSettings):
        taken.add_argument(option(field.name), type=_APPLE[field.name], help=ACCEPTED[field.name])
    taken.set_defaults(run=_adopt)


def _adopt(given: argparse.Namespace) -> int:
    settings = AppleSettings(**{field.name: getattr(given, field.name) for field in fields(AppleSettings)})
    made = adopt(given.folder, settings)
    print(f"{made.path}: {made.manifest.name} ({made.manifest.family})")
    return 0
