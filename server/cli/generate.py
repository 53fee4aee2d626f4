"""``anemone generate``: a picture without a server."""

from __future__ import annotations

import argparse
from pathlib import Path

from converter.runtime import PRECISIONS
from server.cli.flags import Commands, add_command, add_model, size
from server.cli.serve import settings_of
from server.pipeline.request import RNGS
from server.pipeline.schedulers import SCHEDULERS


def add_generate(commands: Commands) -> None:
    """Add the command and its flags."""
    generate = add_command(
        commands,
        "generate",
        "Make a picture without a server",
        'examples:\n  anemone generate "a red circle on a blue background" -o out.png\n'
        '  anemone generate "a green star" -o star.png --seed 7 --steps 30 -n 4\n'
        '  anemone generate "a yellow heart" -o heart.png --image circle.png --strength 0.8',
    )
    generate.add_argument("prompt")
    generate.add_argument(
        "-o", "--out", type=Path, default=Path("out.png"), help="the PNG to write (out.png); with -n 4: out-0.png …"
    )
    generate.add_argument("--negative-prompt")
    generate.add_argument("--size", type=size, metavar="WxH", help="a size the model was converted for")
    generate.add_argument("--steps", type=int)
    generate.add_argument("--guidance-scale", type=float)
    generate.add_argument("--seed", type=int)
    generate.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="one for each picture")
    generate.add_argument(
        "--rng", choices=RNGS, help="whose random numbers: diffusers' (torch), Apple's (numpy), A1111's on a GPU (cuda)"
    )
    generate.add_argument("--variation-seed", type=int, help="turn the noise towards this seed's")
    generate.add_argument("--variation-strength", type=float, help="how far, 0 to 1")
    generate.add_argument("--scheduler", help=", ".join(SCHEDULERS))
    generate.add_argument("-n", type=int, help="how many pictures")
    generate.add_argument("--image", type=Path, help="a picture to start from")
    generate.add_argument("--strength", type=float, help="how much of it to change, up to 1 (0.75)")
    generate.add_argument("--precision", choices=PRECISIONS, help="how it computes (fast); fp32 is the exact one")
    add_model(generate)
    generate.set_defaults(run=_generate)


def _generate(given: argparse.Namespace) -> int:
    from server.cli.offline import generate

    return generate(settings_of(given), given)
