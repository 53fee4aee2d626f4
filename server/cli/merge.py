"""``anemone merge``: makes a model with LoRAs and textual inversions in its weights."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

from converter.conversion.partial import require_replaceable
from converter.errors import AnemoneError
from converter.folder import ModelFolder
from server.cli.flags import Commands, add_command
from server.cli.folders import require_writable, showing
from server.cli.parser import path
from server.pipeline.prompts.tags import MOST_WEIGHT
from server.terminal import Bar, printable


def _weighted(word: str) -> tuple[Path, float]:
    """Parse FILE:WEIGHT, or FILE for weight 1."""
    file, colon, number = word.rpartition(":")
    if not colon:
        return path(word), 1.0
    try:
        weight = float(number)
    except ValueError:
        if not file.endswith(".safetensors"):  # the colon is one of the file's name
            return path(word), 1.0
        weight = math.nan
    if not abs(weight) <= MOST_WEIGHT:
        raise argparse.ArgumentTypeError(
            f"the weight of {word!r} is {number!r}; accepted: FILE:WEIGHT with a number from {-MOST_WEIGHT:g} to "
            f"{MOST_WEIGHT:g}, such as style.safetensors:0.8"
        )
    return path(file), weight


def add_merge(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "merge",
        "Make a model with LoRAs and textual inversions in its weights",
        "examples:\n  anemone merge ./sd15 -o ./sd15-ink --lora ink.safetensors:0.8\n"
        "  anemone merge ./sdxl -o ./mine --lora style.safetensors --lora detail.safetensors:0.5 --embedding cat.safetensors",
    )
    command.add_argument("base", type=path, help="the folder of a converted model; it stays as it is")
    command.add_argument(
        "-o", "--out", type=path, required=True, help="the model folder to write; an existing one is replaced"
    )
    command.add_argument(
        "--lora",
        type=_weighted,
        action="append",
        default=[],
        metavar="FILE:WEIGHT",
        help="a LoRA (.safetensors) and its weight, 1 if left out; several are merged in this order",
    )
    command.add_argument(
        "--embedding",
        type=path,
        action="append",
        default=[],
        metavar="FILE",
        help="a textual inversion (.safetensors), whose vectors become tokens",
    )
    command.set_defaults(run=_merge)


def _merge(args: argparse.Namespace) -> int:
    # Not at the top: they import coremltools, which other commands do without.
    from converter.loras import EmbeddingFile, LoraFile
    from converter.merging import merge

    if not args.lora and not args.embedding:
        raise AnemoneError("nothing to merge is named; give --lora FILE:WEIGHT or --embedding FILE")
    require_replaceable(args.out)
    require_writable(args.out)
    bar, began = Bar(), time.monotonic()
    loras = [(LoraFile.open(file), weight) for file, weight in args.lora]
    embeddings = [EmbeddingFile.open(file) for file in args.embedding]
    try:
        made = merge(ModelFolder.open(args.base), loras, embeddings, args.out, showing(bar))
    finally:
        bar.close()
    for lora, _ in loras:
        for note in lora.notes:
            print(printable(f"{lora.name}: {note}"))
    for line in made.manifest.left_out:
        print(printable(f"left out: {line}"))
    print(f"{args.out}: {made.manifest.name} ({made.manifest.family}), in {time.monotonic() - began:.1f} s")
    return 0
