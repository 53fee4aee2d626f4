"""``anemone resources``: lays out a model for Apple's Swift package and the apps built on it."""

from __future__ import annotations

import argparse
from pathlib import Path

from converter.apple.resources import write_resources
from converter.folder import ModelFolder
from server.cli.flags import Commands, add_command, size
from server.cli.folders import require_writable
from server.cli.parser import path
from server.terminal import printable, say

_NOT_COMPILED = (
    "its models are packages: apps load compiled ones. On a Mac with Xcode the same command compiles them, or "
    "`xcrun coremlcompiler compile Unet.mlpackage .` does for each"
)


def add_resources(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "resources",
        "Lay out a model as the Resources folder that Apple's Swift package and the apps built on it load",
        "examples:\n  anemone resources ./sd15\n"
        "  anemone resources ./sd15 --size 512x768 -o ./sd15-portrait\n"
        "  anemone resources ./sdxl --refiner ./sdxl-refiner",
    )
    command.add_argument("folder", type=path, help="a converted model folder")
    command.add_argument(
        "-o", "--out", type=path, help="the folder to write; the folder Resources in the model's if left out"
    )
    command.add_argument("--size", type=size, metavar="WxH", help="the image size; the model's default if left out")
    command.add_argument(
        "--refiner", type=path, metavar="FOLDER", help="the model folder of a refiner for Stable Diffusion XL"
    )
    command.set_defaults(run=_resources)


def lay_out(model: ModelFolder, out: Path | None, image: tuple[int, int] | None, refiner: ModelFolder | None) -> None:
    """Write the Resources folder, and print what an app must know of it."""
    written = write_resources(model, out, image, refiner, lambda name: say(f"compiling {name}"))
    for note in written.notes:
        print(printable(note))
    if not written.compiled:
        print(_NOT_COMPILED)
    print(f"{written.path}: for Apple's Swift package, {written.size[0]}x{written.size[1]}")


def _resources(args: argparse.Namespace) -> int:
    if args.out is not None:
        require_writable(args.out)
    refiner = None if args.refiner is None else ModelFolder.open(args.refiner)
    lay_out(ModelFolder.open(args.folder), args.out, args.size, refiner)
    return 0
