"""``anemone convert``: a checkpoint in, a model folder out."""

from __future__ import annotations

import argparse
from pathlib import Path

from converter.conversion.plan import ConvertOptions
from converter.mil import TARGETS
from converter.networks.layers import ATTENTIONS
from converter.sources.config_tables import PREDICTION_TYPES
from server.cli.flags import Commands, add_command, add_components, components, size


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
    convert.add_argument(
        "--size", type=size, action="append", metavar="WxH", help="picture size; may be given several times"
    )
    convert.add_argument(
        "--attention",
        choices=ATTENTIONS,
        default="split_einsum",
        help="split_einsum for the Neural Engine (the default), split_einsum_v2 the same for large images (equally fast "
        "on an M2 Pro by others' measurement, slower to compile), original for GPUs",
    )
    convert.add_argument(
        "--batch",
        type=int,
        choices=(1, 2),
        action="append",
        help="rows the UNet takes at once: 2 for guidance (the default), 1 for few-step models without; may be given "
        "twice",
    )
    convert.add_argument(
        "--tokens",
        type=int,
        action="append",
        metavar="N",
        help="prompt lengths the UNet takes: 77 (the default), 154 or 231; may be given several times",
    )
    add_components(convert)
    convert.add_argument(
        "--prompt-once",
        action="store_true",
        help="project the prompt once a picture, in a package of its own, and not at every step in the UNet, whose inputs "
        "are then not those of Apple's packages",
    )
    convert.add_argument(
        "--prediction-type", choices=PREDICTION_TYPES, help="what the UNet predicts, where the source says it wrong"
    )
    convert.add_argument(
        "--target", choices=TARGETS, default="macOS13", help="the oldest macOS the packages are for (macOS13)"
    )
    convert.add_argument(
        "--functions",
        action="store_true",
        help="sizes, batches and prompt lengths as functions of one package, not packages that share weights by links; "
        "needs --target macOS15",
    )
    convert.add_argument(
        "--only",
        action="append",
        metavar="NETWORK",
        help="make this network anew and keep the others, as converted before with the same options",
    )
    convert.add_argument(
        "--no-verify",
        action="store_true",
        help="install the networks without comparing them with their sources on our runtime, 35 dB at least",
    )
    convert.add_argument("--name", help="what the model is called (the source folder's name)")
    convert.set_defaults(run=_convert)


def _options(given: argparse.Namespace) -> ConvertOptions:
    return ConvertOptions(
        name=given.name,
        sizes=tuple(given.size) if given.size else None,
        attention=given.attention,
        batches=tuple(given.batch) if given.batch else None,
        tokens=tuple(given.tokens) if given.tokens else None,
        prompt_once=given.prompt_once,
        target=given.target,
        functions=given.functions,
        verify=not given.no_verify,
        **components(given),
    )


def _convert(given: argparse.Namespace) -> int:
    from server.cli.offline import convert_checkpoint

    return convert_checkpoint(given.source, given.prediction_type, given.out, _options(given), given.only or [])
