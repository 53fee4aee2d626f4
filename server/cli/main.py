"""The ``anemone`` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from converter import __version__
from converter.errors import AnemoneError
from converter.runtime.fast.library import describe
from server.cli.adopt import add_adopt
from server.cli.convert import add_convert
from server.cli.doctor import add_doctor
from server.cli.generate import add_generate
from server.cli.lint import add_lint
from server.cli.models import add_models
from server.cli.serve import add_serve
from server.cli.service import add_service
from server.cli.verify import add_verify
from server.terminal import printable

_EXAMPLES = """examples:
  anemone serve
  anemone generate "a red circle on a blue background" -o out.png
  anemone convert ./my-checkpoint -o ./my-model --size 512x512 --size 512x768
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
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
        add_adopt,
        add_verify,
        add_lint,
        add_generate,
        add_doctor,
    ):
        add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed with a message, 2 wrong usage, 130 interrupted."""
    args = parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except AnemoneError as error:
        print(f"anemone: {printable(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of the output closed the pipe; flushing the rest at exit would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        about = f": {error.filename}" if error.filename else ""
        print(f"anemone: {printable(f'{error.strerror or error}{about}')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nanemone: interrupted", file=sys.stderr)
        return 130
