"""The parser of the command line: mistakes are answered in two lines; names of files are not empty."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from converter.errors import cut
from server.terminal import printable

#: Characters of an error message; a longer one repeats what was typed.
LONGEST_MESSAGE = 1000


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake without the usage, which takes a dozen lines."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as the base class does, but have the command itself refuse what it does not know."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit with status 2."""
        message = printable(cut(message, LONGEST_MESSAGE))
        self.exit(2, f"{self.prog}: {message}\n`{self.prog} --help` shows what is accepted\n")


def text(word: str) -> str:
    """Parse a name, an address or a prompt, which is not empty."""
    if not word.strip():
        raise argparse.ArgumentTypeError("it is empty; accepted: some text")
    return word


def path(word: str) -> Path:
    """Parse the name of a file or folder; an empty one would be the current folder."""
    return Path(text(word))
