"""``anemone verify``: a converted model beside its source."""

from __future__ import annotations

import argparse
from pathlib import Path

from converter.plan import ConvertOptions
from server.commands.flags import Commands, add_command, add_components, components, size


def add_verify(commands: Commands) -> None:
    """Add the command and its flags."""
    verify = add_command(
        commands,
        "verify",
        "Compare a converted model with its source, network by network and as a whole picture",
        "example:\n  anemone verify ./sd15 --against ./stable-diffusion-v1-5\n"
        "The exit status is 1 where something is under 35 dB.",
    )
    verify.add_argument("folder", type=Path, help="a converted model folder")
    verify.add_argument("--against", required=True, metavar="SOURCE", help="what it was converted from")
    add_components(verify)
    verify.add_argument("--size", type=size, metavar="WxH", help="the picture size to compare at (the default size)")
    verify.add_argument("--prompt", default="a photograph of an astronaut riding a horse")
    verify.add_argument("--steps", type=int, default=4, help="steps of the picture (4); 0 compares networks only")
    verify.set_defaults(run=_verify)


def _verify(given: argparse.Namespace) -> int:
    from server.verifying import verify_model

    options = ConvertOptions(**components(given))
    return verify_model(given.folder, given.against, options, given.size, given.prompt, given.steps)
