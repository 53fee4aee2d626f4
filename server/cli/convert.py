"""``anemone convert``: converts a checkpoint into a model folder."""

from __future__ import annotations

import argparse

from converter.options import ConvertOptions
from server.cli.flags import Commands, add_command, add_options, options_of
from server.cli.parser import path, text


def add_convert(commands: Commands) -> None:
    """Add the command and its flags."""
    convert = add_command(
        commands,
        "convert",
        "Convert a checkpoint to a folder of Core ML packages",
        "examples:\n  anemone convert ./stable-diffusion-v1-5 -o ./sd15 --size 512x512 --size 512x768\n"
        "  anemone convert stabilityai/sdxl-turbo -o ./turbo --batch 1\n"
        "  anemone convert ./dreamlike.safetensors -o ./dreamlike --attention original\n"
        "  anemone convert ./stable-diffusion-v1-5 -o ./sd15 --only vae_decoder\n"
        "  anemone convert ./RealESRGAN_x4plus.safetensors -o DATA_DIR/upscalers/x4plus",
    )
    convert.add_argument(
        "source",
        type=text,
        help="a diffusers checkpoint folder, a .safetensors file with a complete checkpoint or an upscaler, or owner/name on the Hugging "
        "Face hub (owner/name@revision, owner/name/file.safetensors)",
    )
    convert.add_argument(
        "-o", "--out", type=path, required=True, help="the model folder to write; an existing one is replaced"
    )
    add_options(convert)
    convert.add_argument(
        "--only",
        action="append",
        metavar="NETWORK",
        help="convert only this network again; the others must have been converted with the same options, and stay",
    )
    convert.add_argument(
        "--resources",
        action="store_true",
        help="also lay out the folder Resources in the model's, for Apple's Swift package, as `anemone resources` does",
    )
    convert.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> int:
    from server.cli.offline import convert_checkpoint

    options = ConvertOptions(**options_of(args))
    return convert_checkpoint(args.source, args.out, options, args.only or [], resources=args.resources)
