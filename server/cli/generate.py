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
from server.pipeline.fields import Accepts, Items, OneOf, RequestField, without_attachments
from server.pipeline.request import FIELDS


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
        '  anemone generate "a blue star" -o star.png --control image=drawing.png preprocessor=canny weight=0.8',
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
    return [field for field in FIELDS if field.part != "size" and field.name != "model"]


def _add_flag(command: argparse.ArgumentParser, field: RequestField) -> None:
    about = field.about.replace("%", "%%")
    if field.name == "prompt":
        command.add_argument(field.name, type=_parser(field), help=about)
        return
    flag = f"--{field.name.replace('_', '-')}" if len(field.name) > 1 else f"-{field.name}"
    one_of, items = field.find(OneOf), field.find(Items)
    if field.is_attachment:
        command.add_argument(flag, type=path, help=about)
    elif one_of is not None:
        command.add_argument(flag, choices=one_of.words, help=about)
    elif items is not None:
        names = ", ".join(inner.name for inner in field.item_fields)
        command.add_argument(
            f"--{items.each}",
            dest=field.name,
            type=_item_parser(field),
            nargs="+",
            action="append",
            metavar="FIELD=VALUE",
            help=f"{about}, each by its fields: {names}; may be given several times",
        )
    elif field.info.annotation is bool and field.info.default:
        negated = f"Do not {about[0].lower()}{about[1:]}"
        command.add_argument(f"--no-{flag[2:]}", dest=field.name, action="store_const", const=False, help=negated)
    elif field.info.annotation is bool:
        command.add_argument(flag, action="store_const", const=True, help=about)
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


def _item_parser(field: RequestField) -> Callable[[str], tuple[str, Any]]:
    """Return the function that parses a field of a list's item, such as weight=0.5, into its name and value."""
    parsers = {inner.name: path if inner.is_attachment else _parser(inner) for inner in field.item_fields}

    def parse(word: str) -> tuple[str, Any]:
        name, _, value = word.partition("=")
        if name not in parsers:
            raise argparse.ArgumentTypeError(f"{quoted(word)}; accepted: {', '.join(f'{n}=...' for n in parsers)}")
        return name, parsers[name](value)

    return parse


def _generate(args: argparse.Namespace) -> int:
    from server.cli.offline import generate

    fields = {field.name: getattr(args, field.name) for field in _flags()}
    for field in _flags():
        if field.item is not None and fields[field.name] is not None:
            fields[field.name] = [dict(words) for words in fields[field.name]]
    values, files = without_attachments(_flags(), fields)
    width, height = args.size or (None, None)
    return generate(settings_of(args), {**values, "width": width, "height": height}, files, args.out)
