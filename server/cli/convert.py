"""``anemone convert``: a checkpoint in, a model folder out."""

from __future__ import annotations

import argparse
from pathlib import Path

from converter.options import ConvertOptions
from server.cli.flags import Commands, add_command, add_options, options_given


def add_convert(commands: Commands) -> None:
    """Add the command and its flags."""
    convert = add_command(
        commands,
        "convert",
        "Convert a checkpoint to a folder of Core ML packages",
        "examples:\n  anemone convert ./stable-diffusion-v1-5 -o ./sd15 --size 512x512 --size 512x768\n"
        "  anemone convert stabilityai/sdxl-turbo -o ./turbo --batch 1\n"
        "  anemone convert ./dreamlike.safetensors -o ./dreamlike --attention original\n"
        "  anemone convert ./stable-diffusion-v1-5 -o ./sd15 --only vae_decoder",
    )
    convert.add_argument(
        "source",
        help="a diffusers checkpoint folder, a .safetensors file with a whole checkpoint, or owner/name on the Hugging "
        "Face hub (owner/name@revision, owner/name/file.safetensors)",
    )
    convert.add_argument(
        "-o", "--out", type=Path, required=True, help="the model folder to make; what is there is replaced"
    )
    add_options(convert)
    convert.add_argument(
        "--only",
        action="append",
        metavar="NETWORK",
        help="make this network anew and keep the others, as converted before with the same options",
    )
    convert.set_defaults(run=_convert)


def _convert(given: argparse.Namespace) -> int:
    from server.cli.offline import convert_checkpoint

    return convert_checkpoint(given.source, given.out, ConvertOptions(**options_given(given)), given.only or [])
