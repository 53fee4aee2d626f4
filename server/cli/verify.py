"""``anemone verify``: compares a converted model with its source."""

from __future__ import annotations

import argparse

from converter.errors import AnemoneError
from converter.lint import CHIPS, DEFAULT_CHIP
from server.cli.flags import Commands, add_command, add_options, flag, options_of, size
from server.cli.parser import path, text


def add_verify(commands: Commands) -> None:
    """Add the command and its flags."""
    verify = add_command(
        commands,
        "verify",
        "Compare a converted model with its source, network by network and as a whole image: in fp32, in fp16, and as this "
        "machine serves it",
        "examples:\n  anemone verify ./sd15 --against ./stable-diffusion-v1-5\n"
        "  anemone verify ./sd15 --against ./stable-diffusion-v1-5 --precision ane --ranges\n"
        "  anemone verify ./sd15 --device --only unet\n"
        "The exit status is 1 if a network or the image is under 35 dB (less for compressed weights, as at conversion)\n"
        "on our own runtime, which judges the program as written. The report also shows Core ML's results on a Mac and, with --device, those of each device; they fail\n"
        "only if they are not finite or if the network does not run.",
    )
    verify.add_argument("folder", type=path, help="a converted model folder; with --device also an .mlpackage")
    source = verify.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--against", type=text, metavar="SOURCE", help="the checkpoint that the model was converted from"
    )
    source.add_argument(
        "--device",
        action="store_true",
        help="on a Mac: run each network on CPU, GPU and Neural Engine, and show the first block at which one deviates",
    )
    verify.add_argument(
        "--only",
        action="append",
        metavar="NETWORK",
        help="with --device: only this network; may be given several times",
    )
    add_options(verify, networks_only=True)
    verify.add_argument("--size", type=size, metavar="WxH", help="the image size to compare at (the default size)")
    verify.add_argument("--prompt", help="the prompt of the image that is compared")
    verify.add_argument("--steps", type=int, help="steps of the image (4); 0 compares networks only")
    verify.add_argument(
        "--precision",
        choices=("fp16", "ane"),
        help="the arithmetic besides fp32: fp16 (the default) rounds every result; ane adds the Neural Engine's limits, as "
        "others measured them: it shows overflow, not the engine's own error (others measured about 34.5 dB for "
        "SD 1.5's UNet)",
    )
    verify.add_argument("--chip", choices=CHIPS, help=f"with ane: the chip whose engine is modeled ({DEFAULT_CHIP})")
    verify.add_argument(
        "--ranges",
        type=int,
        nargs="?",
        const=10,
        metavar="N",
        help="also show each network's N operations nearest to overflow (10)",
    )
    verify.set_defaults(run=_verify)


def _verify(args: argparse.Namespace) -> int:
    settings = {name: getattr(args, name) for name in ("prompt", "steps", "precision", "chip", "ranges")}
    settings = {name: value for name, value in settings.items() if value is not None}
    if args.device:
        if others := [*map(flag, options_of(args)), *(f"--{name}" for name in settings)]:
            raise AnemoneError(f"{others[0]} needs --against; --device compares the model's networks with themselves")
        from server.cli.devices import verify_devices

        return verify_devices(args.folder, args.size, args.only or ())
    if args.only:
        raise AnemoneError("--only needs --device; --against compares all networks")
    from server.cli.verifying import VerifyOptions, verify_model

    return verify_model(args.folder, args.against, options_of(args), VerifyOptions(args.size, **settings))
