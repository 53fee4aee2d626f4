"""The ``anemone`` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from converter import __version__
from converter.errors import AnemoneError, cut
from converter.runtime.fast.library import describe
from server.cli.adopt import add_adopt
from server.cli.analyze import add_analyze
from server.cli.convert import add_convert
from server.cli.doctor import add_doctor
from server.cli.generate import add_generate
from server.cli.lint import add_lint
from server.cli.merge import add_merge
from server.cli.models import add_models
from server.cli.palette import add_palette
from server.cli.parser import LONGEST_MESSAGE, Parser
from server.cli.resources import add_resources
from server.cli.serve import add_serve
from server.cli.service import add_service
from server.cli.upscale import add_upscale
from server.cli.verify import add_verify
from server.terminal import printable, say

_EXAMPLES = """examples:
  anemone serve
  anemone generate "a red circle on a blue background" -o out.png
  anemone convert ./my-checkpoint -o ./my-model --size 512x512 --size 512x768
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top: argparse.ArgumentParser = Parser(
        "anemone",
        description="Images from text, on this machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"anemone {__version__}, kernels: {describe()}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        add_serve,
        add_service,
        add_models,
        add_convert,
        add_analyze,
        add_adopt,
        add_merge,
        add_resources,
        add_verify,
        add_lint,
        add_generate,
        add_palette,
        add_upscale,
        add_doctor,
    ):
        add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed with a message; exit with 2 if the usage is wrong."""
    try:
        try:
            args = parser().parse_args(arguments)
            run: Callable[[argparse.Namespace], int] = args.run
            return run(args)
        finally:
            sys.stdout.flush()  # a full disk or a closed pipe is noticed here, not as the interpreter exits
    except AnemoneError as error:
        return _failed(str(error))
    except BrokenPipeError:
        # The reader of the output closed the pipe; flushing the rest at exit would raise again.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 1
    except OSError as error:
        about = f": {error.filename}" if error.filename else ""
        return _failed(f"{error.strerror or error}{about}")


def _failed(why: str) -> int:
    say(f"anemone: {printable(cut(why, LONGEST_MESSAGE))}")
    return 1
