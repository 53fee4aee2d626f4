"""The process of the ``anemone`` command: its signals and standard streams, then the command.

The command line's imports take half a second, so they come after the signals.
"""

from __future__ import annotations

import os
import sys

from server.signals import Interrupted, end_at_once, end_gently_then_at_once
from server.terminal import say


def _open_closed_streams() -> None:
    """Connect closed standard streams to the null device, in ascending order, so that no file gets their descriptors."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _escape_what_cannot_be_encoded() -> None:
    """Print characters that the terminal's encoding lacks, and bytes of file names that are no text, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _interrupted(interrupted: Interrupted) -> int:
    line_end = "\n" if sys.stderr.isatty() else ""  # after the terminal's ^C
    say(line_end + "; ".join(["anemone: interrupted", *getattr(interrupted, "__notes__", ())]))
    return interrupted.status


def start() -> int:
    """Run the command line of this process and return its exit status: main's, or 128 and the signal's number."""
    try:
        end_gently_then_at_once()
        _open_closed_streams()
        _escape_what_cannot_be_encoded()
        from server.cli.main import main

        return main()
    except Interrupted as interrupted:
        return _interrupted(interrupted)
    finally:
        end_at_once()
