"""``anemone verify``: a converted model beside its source."""

from __future__ import annotations

import argparse
from pathlib import Path

from converter.lint import CHIPS, DEFAULT_CHIP
from converter.plan import ConvertOptions
from server.commands.flags import Commands, add_command, add_components, components, size


def add_verify(commands: Commands) -> None:
    """Add the command and its flags."""
    verify = add_command(
        commands,
        "verify",
        "Compare a converted model with its source, network by network and as a whole image, in fp32, in fp16, and as it "
        "is served here",
        "examples:\n  anemone verify ./sd15 --against ./stable-diffusion-v1-5\n"
        "  anemone verify ./sd15 --against ./stable-diffusion-v1-5 --precision ane --ranges\n"
        "The exit status is 1 where a network or the image is under 35 dB on our own runtime, which judges the program\n"
        "as written. What Core ML answers on a Mac is shown beside it and fails only where it is not finite.",
    )
    verify.add_argument("folder", type=Path, help="a converted model folder")
    verify.add_argument("--against", required=True, metavar="SOURCE", help="what it was converted from")
    add_components(verify)
    verify.add_argument("--size", type=size, metavar="WxH", help="the picture size to compare at (the default size)")
    verify.add_argument("--prompt", default="a photograph of an astronaut riding a horse")
    verify.add_argument("--steps", type=int, default=4, help="steps of the picture (4); 0 compares networks only")
    verify.add_argument(
        "--precision",
        choices=("fp16", "ane"),
        default="fp16",
        help="beside fp32: every result rounded to fp16 (the default), or ane: with the Neural Engine's limits, as "
        "others measured them; it shows overflow, not the engine's own error (about 34.5 dB for SD 1.5's UNet by "
        "others' measurement)",
    )
    verify.add_argument("--chip", choices=CHIPS, default=DEFAULT_CHIP, help=f"whose engine, for ane ({DEFAULT_CHIP})")
    verify.add_argument(
        "--ranges",
        type=int,
        nargs="?",
        const=10,
        default=0,
        metavar="N",
        help="also each network's N operations nearest to overflow (10)",
    )
    verify.set_defaults(run=_verify)


def _verify(given: argparse.Namespace) -> int:
    from server.verifying import Trial, verify_model

    options = ConvertOptions(**components(given))
    trial = Trial(given.size, given.prompt, given.steps, given.precision, given.chip, given.ranges)
    return verify_model(given.folder, given.against, options, trial)
