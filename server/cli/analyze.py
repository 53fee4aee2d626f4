"""``anemone analyze``: finds how many bits each layer of a UNet needs, and writes recipes of mixed palettes."""

from __future__ import annotations

import argparse
from typing import get_args

from converter.errors import AnemoneError
from converter.options import DEFAULT_OPTIONS, OPTIONS
from server.cli.flags import Commands, add_command, flag, size
from server.cli.parser import path, text

#: Averages of the recipes, in bits for each element; Apple's published ones lie between 2.7 and 4.5.
AVERAGES = (3.0, 3.5, 4.0, 4.5, 5.0, 6.0)


def _average(word: str) -> float:
    try:
        bits = float(word)
    except ValueError:
        bits = 0.0
    # A recipe is named by its average with two decimals: of two with one name, the first would be lost.
    if not 1 <= bits <= 16 or bits != round(bits, 2):
        raise argparse.ArgumentTypeError(
            f"{word!r} is not accepted; accepted: 1 to 16 bits, with two decimals at most, such as 4.5"
        )
    return bits


def add_analyze(commands: Commands) -> None:
    """Add the command and its flags."""
    analyze = add_command(
        commands,
        "analyze",
        "Find how many bits the palette of each of a UNet's layers needs, and write recipes for `anemone convert --recipe`",
        "examples:\n  anemone analyze ./stable-diffusion-v1-5 -o recipes.json --target macOS15\n"
        "  anemone analyze ./dreamlike.safetensors -o recipes.json --average 4.5 --prompt 'a castle' --prompt 'a cat'\n"
        "  anemone convert ./dreamlike.safetensors -o ./dreamlike --recipe recipes.json#recipe_4.50_bit_mixedpalette\n"
        "  anemone analyze ./stable-diffusion-v1-5 -o activations.json --activations\n"
        "If it is interrupted, the same command continues where it stopped.",
    )
    analyze.add_argument("source", type=text, help="the checkpoint, as for `anemone convert`")
    analyze.add_argument(
        "-o", "--out", type=path, required=True, help="the JSON file to write; an existing one is replaced"
    )
    analyze.add_argument(
        "--average",
        type=_average,
        action="append",
        metavar="BITS",
        help="write a recipe of at most so many bits for each weight on average; may be given several times "
        f"({', '.join(f'{bits:g}' for bits in AVERAGES)})",
    )
    analyze.add_argument(
        "--prompt",
        action="append",
        type=text,
        help="measure on images of this prompt, of what the model is for; may be given several times "
        "(prompts in the checkpoint's anemone-defaults.json, or eight of people, places and things)",
    )
    target = OPTIONS["target"]
    analyze.add_argument(
        flag("target"),
        choices=get_args(target.value),
        default=DEFAULT_OPTIONS.target,
        help="choose among the widths that packages for this macOS may have: 3 bits need macOS15 (%(default)s)",
    )
    analyze.add_argument("--size", type=size, metavar="WxH", help="measure at this image size (at most 256x256)")
    analyze.add_argument(
        "--activations",
        action="store_true",
        help="measure instead which layers may take their inputs in 8 bits, for `anemone convert --activations`",
    )
    analyze.set_defaults(run=_analyze)


def _analyze(args: argparse.Namespace) -> int:
    from server.cli.analyzing import AnalyzeOptions, analyze_checkpoint

    if args.activations and args.average:
        raise AnemoneError("--average is for recipes, which --activations does not write; leave one out")
    averages = tuple(args.average or AVERAGES)
    options = AnalyzeOptions(averages, tuple(args.prompt or ()), args.size, args.target, args.activations)
    return analyze_checkpoint(args.source, args.out, options)
