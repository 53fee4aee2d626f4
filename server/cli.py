"""The ``anemone`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from converter import __version__
from converter.errors import AnemoneError
from server.pipeline.schedulers import SCHEDULERS
from server.settings import BUNDLED_MODEL, Settings

_EXAMPLES = """examples:
  anemone serve
  anemone generate "a red circle on a blue background" -o out.png
  anemone convert ./my-checkpoint -o ./my-model --size 512x512 --size 512x768
"""


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not cross or not width.isdigit() or not height.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; accepted: WIDTHxHEIGHT in pixels, such as 512x512")
    return int(width), int(height)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str, epilog: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=about, description=about, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        "anemone",
        description="Pictures from words, on this machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"anemone {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = _command(
        commands,
        "serve",
        "Serve pictures over HTTP",
        "examples:\n  anemone serve\n  anemone serve --port 8080 --model ./my-checkpoint\n"
        "Every flag is also a variable: ANEMONE_PORT=8080 anemone serve",
    )
    serve.add_argument("--host", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (7860)")
    _model_flags(serve)

    convert = _command(
        commands,
        "convert",
        "Convert a checkpoint to a folder of Core ML packages",
        "example:\n  anemone convert ./stable-diffusion-v1-5 -o ./sd15 --size 512x512 --size 512x768",
    )
    convert.add_argument("source", type=Path, help="a checkpoint folder in the diffusers layout, safetensors")
    convert.add_argument(
        "-o", "--out", type=Path, required=True, help="the model folder to make; what is there is replaced"
    )
    convert.add_argument(
        "--size", type=_size, action="append", metavar="WxH", help="picture size; may be given several times"
    )
    convert.add_argument("--name", help="what the model is called (the source folder's name)")

    generate = _command(
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
    generate.add_argument("--size", type=_size, metavar="WxH", help="a size the model was converted for")
    generate.add_argument("--steps", type=int)
    generate.add_argument("--guidance-scale", type=float)
    generate.add_argument("--seed", type=int)
    generate.add_argument("--scheduler", help=", ".join(SCHEDULERS))
    generate.add_argument("-n", type=int, help="how many pictures")
    generate.add_argument("--image", type=Path, help="a picture to start from")
    generate.add_argument("--strength", type=float, help="how much of it to change, up to 1 (0.75)")
    _model_flags(generate)
    return top


def _model_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        type=Path,
        help=f"a checkpoint or converted model folder ({BUNDLED_MODEL.parent.name}/model, the bundled one)",
    )
    command.add_argument(
        "--data-dir", type=Path, help="where models, jobs and pictures are kept (the user's data folder)"
    )


def _settings(arguments: argparse.Namespace) -> Settings:
    given = {name: getattr(arguments, name, None) for name in ("host", "port", "model", "data_dir")}
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"])
        raise AnemoneError(
            f"{field}: {first['msg'].removeprefix('Value error, ')} (given: {first['input']!r})"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 done, 1 failed with a message, 2 misused, 130 interrupted."""
    given = parser().parse_args(arguments)
    try:
        if given.command == "serve":
            from server.serve import serve

            return serve(_settings(given))
        if given.command == "convert":
            from server.offline import convert_checkpoint

            return convert_checkpoint(given.source, given.out, given.size, given.name)
        from server.offline import generate

        return generate(_settings(given), given)
    except AnemoneError as error:
        print(f"anemone: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nanemone: interrupted", file=sys.stderr)
        return 130
