"""``anemone generate``: makes an image without a server."""

from __future__ import annotations

import argparse
from pathlib import Path

from converter.runtime import PRECISIONS
from server.cli.flags import Commands, add_command, add_model, size
from server.cli.serve import settings_of
from server.pipeline.fields import Attachment, OneOf, RequestField
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
        "-o", "--out", type=Path, default=Path("out.png"), help="the PNG to write (out.png); with -n 4: out-0.png …"
    )
    for field in _flags():
        _add_flag(generate, field)
    generate.add_argument("--size", type=size, metavar="WxH", help="one of the sizes that the model was converted for")
    generate.add_argument("--precision", choices=PRECISIONS, help="the arithmetic (fast); fp32 is exact")
    add_model(generate)
    generate.set_defaults(run=_generate)


def _flags() -> list[RequestField]:
    """Return the fields that have their own flag: --size stands for width and height, and --model is a folder."""
    return [field for field in FIELDS if field.part not in (None, "size")]


def _add_flag(command: argparse.ArgumentParser, field: RequestField) -> None:
    about = field.about.replace("%", "%%")
    if field.name == "prompt":
        command.add_argument(field.name, help=about)
        return
    flag = f"--{field.name.replace('_', '-')}" if len(field.name) > 1 else f"-{field.name}"
    one_of = field.find(OneOf)
    value_type = Path if field.find(Attachment) else field.python_type
    if field.is_list:
        command.add_argument(flag, type=value_type, nargs="+", metavar="N", help=about)
    else:
        command.add_argument(flag, type=value_type, choices=None if one_of is None else one_of.words, help=about)


def _generate(args: argparse.Namespace) -> int:
    from server.cli.offline import generate

    fields = {field.name: getattr(args, field.name) for field in _flags()}
    attachments = {f.name: fields[f.name] for f in _flags() if f.find(Attachment) and fields[f.name] is not None}
    width, height = args.size or (None, None)
    return generate(settings_of(args), {**fields, "width": width, "height": height}, attachments, args.out)
