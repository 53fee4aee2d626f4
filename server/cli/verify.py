"""``anemone verify``: a converted model beside its source."""

from __future__ import annotations

import argparse
from pathlib import Path

from converter.errors import AnemoneError
from converter.lint import CHIPS, DEFAULT_CHIP
from server.cli.flags import Commands, add_command, add_options, flag, options_given, size


def add_verify(commands: Commands) -> None:
    """Add the command and its flags."""
    verify = add_command(
        commands,
        "verify",
        "Compare a converted model with its source, network by network and as a whole image, in fp32, in fp16, and as it "
        "is served here",
        "examples:\n  anemone verify ./sd15 --against ./stable-diffusion-v1-5\n"
        "  anemone verify ./sd15 --against ./stable-diffusion-v1-5 --precision ane --ranges\n"
        "  anemone verify ./sd15 --device --only unet\n"
        "The exit status is 1 where a network or the image is under 35 dB on our own runtime, which judges the program\n"
        "as written. What Core ML answers on a Mac, and with --device each device, is shown beside it and fails only\n"
        "where it is not finite or does not run.",
    )
    verify.add_argument("folder", type=Path, help="a converted model folder; with --device also an .mlpackage")
    beside = verify.add_mutually_exclusive_group(required=True)
    beside.add_argument("--against", metavar="SOURCE", help="what it was converted from")
    beside.add_argument(
        "--device",
        action="store_true",
        help="on a Mac: each network on CPU, GPU and Neural Engine, block by block, and the first block at which one parts",
    )
    verify.add_argument(
        "--only", action="append", metavar="NETWORK", help="with --device: this network; may be given several times"
    )
    add_options(verify, networks_only=True)
    verify.add_argument("--size", type=size, metavar="WxH", help="the image size to compare at (the default size)")
    verify.add_argument("--prompt", help="of the image that is compared")
    verify.add_argument("--steps", type=int, help="steps of the image (4); 0 compares networks only")
    verify.add_argument(
        "--precision",
        choices=("fp16", "ane"),
        help="beside fp32: every result rounded to fp16 (the default), or ane: with the Neural Engine's limits, as "
        "others measured them; it shows overflow, not the engine's own error (about 34.5 dB for SD 1.5's UNet by "
        "others' measurement)",
    )
    verify.add_argument("--chip", choices=CHIPS, help=f"whose engine, for ane ({DEFAULT_CHIP})")
    verify.add_argument(
        "--ranges",
        type=int,
        nargs="?",
        const=10,
        metavar="N",
        help="also each network's N operations nearest to overflow (10)",
    )
    verify.set_defaults(run=_verify)


def _verify(given: argparse.Namespace) -> int:
    asked = {name: getattr(given, name) for name in ("prompt", "steps", "precision", "chip", "ranges")}
    asked = {name: value for name, value in asked.items() if value is not None}
    if given.device:
        if others := [*map(flag, options_given(given)), *(f"--{name}" for name in asked)]:
            raise AnemoneError(
                f"{others[0]} goes with --against; --device compares the model's networks with themselves"
            )
        from server.cli.devices import verify_devices

        return verify_devices(given.folder, given.size, given.only or ())
    if given.only:
        raise AnemoneError("--only goes with --device; --against compares all networks")
    from server.cli.verifying import VerifyOptions, verify_model

    return verify_model(given.folder, given.against, options_given(given), VerifyOptions(given.size, **asked))
