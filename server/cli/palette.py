"""``anemone palette``: finds an image's colors."""

from __future__ import annotations

import argparse
import json
import sys

from converter.errors import AnemoneError
from server.cli.flags import Commands, add_command
from server.cli.parser import path
from server.pipeline.canvas.attachments import frame_notes
from server.pipeline.decoding.file import READABLE, ImageError
from server.pipeline.images import read_image
from server.pipeline.palette.extraction import FEWEST, MOST, USUAL, palette_of_file


def add_palette(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "palette",
        "Find an image's colors with their shares",
        "examples:\n  anemone palette meadow.jpg\n  anemone palette meadow.jpg --colors 8 --json",
    )
    command.add_argument("file", type=path, help=f"a {READABLE} image")
    command.add_argument(
        "--colors",
        type=int,
        choices=range(FEWEST, MOST + 1),
        default=USUAL,
        metavar="N",
        help=f"how many colors to find at most, {FEWEST} to {MOST} ({USUAL})",
    )
    command.add_argument("--json", action="store_true", help="print JSON, as POST /api/v1/palette answers")
    command.set_defaults(run=_palette)


def _palette(args: argparse.Namespace) -> int:
    try:
        data = args.file.read_bytes()
        colors = palette_of_file(data, args.colors)
        notes = frame_notes("image", read_image(data))
    except ImageError as bad:
        raise AnemoneError(f"{args.file}: {bad}") from bad
    for note in notes:
        print(f"note: {note}", file=sys.stderr)  # the colors may be read by a program
    if args.json:
        print(json.dumps({"colors": [color.shown() for color in colors]}))
    else:
        for color in colors:
            print(f"{color.hex}  {100 * color.share:5.1f} %")
    return 0
