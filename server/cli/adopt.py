"""``anemone adopt``: makes a model of a folder that Apple's converter wrote."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from converter.apple import ACCEPTED, AppleSettings, adopt, option
from server.cli.flags import Commands, add_command
from server.cli.parser import path
from server.terminal import printable


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a boolean; accepted: true, false")
    return text.lower() == "true"


#: The parser of each setting.
_PARSERS: dict[str, Callable[[str], Any]] = {
    "name": str,
    "prediction_type": str,
    "vae_scaling_factor": float,
    "scheduler_config": path,
    "tokenizer": path,
    "zeros_for_no_prompt": _boolean,
    "steps": int,
    "guidance_scale": float,
}


def add_adopt(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "adopt",
        "Use a folder that Apple's converter wrote as a model, unchanged",
        "example:\n  anemone adopt ./coreml-stable-diffusion-2-1-base --prediction-type epsilon\n"
        "If the packages lack a setting, the command names the flag to set it by; anemone.json in the folder keeps it.",
    )
    command.add_argument("folder", type=path, help="a folder of Apple's .mlpackages or its compiled Resources")
    for field in fields(AppleSettings):
        command.add_argument(option(field.name), type=_PARSERS[field.name], help=ACCEPTED[field.name])
    command.set_defaults(run=_adopt)


def _adopt(args: argparse.Namespace) -> int:
    settings = AppleSettings(**{field.name: getattr(args, field.name) for field in fields(AppleSettings)})
    model = adopt(args.folder, settings)
    for line in model.manifest.left_out:
        print(printable(f"left out: {line}"))
    print(f"{model.path}: {model.manifest.name} ({model.manifest.family})")
    return 0
