"""``anemone upscale``: enlarges an image without a server."""

from __future__ import annotations

import argparse
from pathlib import Path

from converter.runtime import PRECISIONS
from server.cli.fields import add_field
from server.cli.flags import Commands, add_command
from server.cli.parser import path
from server.cli.serve import add_config, settings_of
from server.pipeline.decoding.file import READABLE
from server.pipeline.request.upscale import UPSCALE_FIELDS

#: The image is an argument, and the format is that of the file's suffix.
_FLAGS = [field for field in UPSCALE_FIELDS if field.name not in ("image", "format")]


def add_upscale(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "upscale",
        "Enlarge an image without a server",
        "examples:\n  anemone upscale small.png -o large.png\n"
        "  anemone upscale small.png -o large.png --upscaler x4plus --scale 3\n"
        "  anemone upscale small.png -o large.png --upscaler lanczos --width 1024",
    )
    command.add_argument("image", type=path, help=f"the {READABLE} to enlarge")
    command.add_argument(
        "-o", "--out", type=path, default=Path("out.png"), help="the file to write (out.png): .png, .jpg or .webp"
    )
    for field in _FLAGS:
        add_field(command, field)
    command.add_argument("--precision", choices=PRECISIONS, help="the arithmetic (fast); fp32 is exact")
    add_config(command)
    command.add_argument("--data-dir", type=path, help="the folder with the upscalers (the user's data folder)")
    command.set_defaults(run=_upscale)


def _upscale(args: argparse.Namespace) -> int:
    from server.cli.offline import upscale

    fields = {field.name: getattr(args, field.name) for field in _FLAGS}
    return upscale(settings_of(args), args.image, fields, args.out)
