"""``anemone generate``: makes an image without a server."""

from __future__ import annotations

import argparse
from collections import ChainMap
from pathlib import Path

from converter.runtime import PRECISIONS
from server.cli.fields import add_field
from server.cli.flags import Commands, add_command, add_model, size
from server.cli.parser import path
from server.cli.serve import settings_of
from server.pipeline.fields import RequestField, without_attachments
from server.pipeline.limits import Items
from server.pipeline.request import FIELDS, RequestError


def add_generate(commands: Commands) -> None:
    """Add the command and its flags."""
    generate = add_command(
        commands,
        "generate",
        "Make an image without a server",
        'examples:\n  anemone generate "a red circle on a blue background" -o out.png\n'
        '  anemone generate "a green star" -o star.png --seed 7 --steps 30 -n 4\n'
        '  anemone generate "a yellow heart" -o heart.png --image circle.png --strength 0.8\n'
        '  anemone generate "a green square" -o square.png --image circle.png --mask mask.png\n'
        '  anemone generate "a red circle" -o wide.png --image circle.png --extend-left 32 --extend-right 32\n'
        '  anemone generate "a blue star" -o star.png --control image=drawing.png preprocessor=canny weight=0.8\n'
        '  anemone generate "a red circle" -o film.png --lora film:0.8',
    )
    generate.add_argument(
        "-o",
        "--out",
        type=path,
        default=Path("out.png"),
        help="the file to write (out.png): .png, .jpg or .webp; with -n 4: out-0.png …",
    )
    for field in _flags():
        add_field(generate, field)
    generate.add_argument("--size", type=size, metavar="WxH", help="the size of the image; the model's own if left out")
    generate.add_argument("--precision", choices=PRECISIONS, help="the arithmetic (fast); fp32 is exact")
    add_model(generate)
    generate.set_defaults(run=_generate)


def _flags() -> list[RequestField]:
    """Return the fields that have their own flag: --size stands for width and height, and --model is a folder."""
    return [field for field in FIELDS if field.part != "size" and field.name != "model"]


def _generate(args: argparse.Namespace) -> int:
    from server.cli.offline import generate

    fields = {field.name: getattr(args, field.name) for field in _flags()}
    for field in _flags():
        if field.item is not None and fields[field.name] is not None:
            fields[field.name] = [dict(ChainMap(*reversed(words))) for words in fields[field.name]]
    values, files = without_attachments(_flags(), fields)
    width, height = args.size or (None, None)
    try:
        return generate(settings_of(args), {**values, "width": width, "height": height}, files, args.out)
    except RequestError as error:
        raise RequestError(_as_flag(error.field), error.value, error.accepted) from error


def _as_flag(path: str) -> str:
    """Return a list's field in the words of its flag: ``loras.0.name`` is the name of --lora. Others stay as they are."""
    name, *place = path.split(".")
    items = next((field.find(Items) for field in _flags() if field.name == name), None)
    return path if items is None or len(place) < 2 else f"{place[-1]} of --{items.each}"
