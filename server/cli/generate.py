"""``anemone generate``: makes an image without a server."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from converter.errors import quoted
from converter.runtime import PRECISIONS
from server.cli.flags import Commands, add_command, add_model, size
from server.cli.parser import path
from server.cli.serve import settings_of
from server.findings import accepted_by
from server.pipeline.fields import Accepts, Attachment, OneOf, RequestField
from server.pipeline.request import FIELDS


def add_generate(commands: Commands) -> None:
    """Add the command and its flags."""
    generate = add_command(
        commands,
        "generate",
        "Make an image without a server",
        'examples:\n  anemone generate "a red circle on a blue background" -o out.png\n'
        '  anemone generate "a green star" -o star.png --seed 7 --steps 30 -n 4\n'
        '  anemone generate "a yellow heart" -o heart.png --image circle.png --strength 0.8',
    )
    generate.add_argument(
        "-o",
        "--out",
        type=path,
        default=Path("out.png"),
        help="the file to write (out.png): .png, .jpg or .webp; with -n 4: out-0.png …",
    )
    for field in _flags():
        _add_flag(generate, field)
    generate.add_argument("--size", type=size, metavar="WxH", help="the size of the image; the model's own if left out")
    generate.add_argument("--precision", choices=PRECISIONS, help="the arithmetic (fast); fp32 is exact")
    add_model(generate)
    generate.set_defaults(run=_generate)


def _flags() -> list[RequestField]:
    """Return the fields that have their own flag: --size stands for width and height, and --model is a folder."""
    return [field for field in FIELDS if field.part not in (None, "size")]


def _add_flag(command: argparse.ArgumentParser, field: RequestField) -> None:
    about = field.about.replace("%", "%%")
    if field.name == "prompt":
        command.add_argument(field.name, type=_parser(field), help=about)
        return
    flag = f"--{field.name.replace('_', '-')}" if len(field.name) > 1 else f"-{field.name}"
    one_of = field.find(OneOf)
    if field.find(Attachment):
        command.add_argument(flag, type=path, help=about)
    elif one_of is not None:
        command.add_argument(flag, choices=one_of.words, help=about)
    elif field.is_list:
        command.add_argument(flag, type=_number, nargs="+", metavar="N", help=about)
    else:
        command.add_argument(flag, type=_parser(field), help=about)


def _number(word: str) -> int:
    try:
        return int(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{quoted(word)}; accepted: whole numbers") from error


def _parser(field: RequestField) -> Callable[[str], Any]:
    """Return the function that parses a field's value as the API does, and refuses what no model accepts."""
    adapter = TypeAdapter(field.type)

    def parse(word: str) -> Any:
        try:
            return adapter.validate_python(word)
        except ValidationError as error:
            first = error.errors()[0]
            limit = field.find(Accepts)
            accepted = accepted_by(first)
            accepted += f", {limit}" if first["type"] != "value_error" and limit is not None else ""
            raise argparse.ArgumentTypeError(f"{quoted(word)}; accepted: {accepted}") from error

    return parse


def _generate(args: argparse.Namespace) -> int:
    from server.cli.offline import generate

    fields = {field.name: getattr(args, field.name) for field in _flags()}
    attachments = {f.name: fields[f.name] for f in _flags() if f.find(Attachment) and fields[f.name] is not None}
    width, height = args.size or (None, None)
    return generate(settings_of(args), {**fields, "width": width, "height": height}, attachments, args.out)
