"""Shows progress on standard error: one line that is redrawn on a terminal, a line every two seconds elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time

_WIDTH = 28
_SECONDS_BETWEEN_LINES = 2.0


def printable(text: str) -> str:
    """Return the text with control characters escaped (a checkpoint's names may contain them); line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def say(text: str) -> None:
    """Print a line on standard error, if anybody reads it: a server goes on when its terminal or its log is gone."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Bar:
    """A progress bar on standard error."""

    def __init__(self) -> None:
        self._redraws = sys.stderr.isatty()
        self._drawn = ""
        self._last = 0.0

    def show(self, label: str, done: int, total: int, detail: str = "") -> None:
        """Draw ``label`` at ``done`` of ``total``, with ``detail`` after it."""
        fraction = done / total if total else 0.0
        if self._redraws:
            filled = round(fraction * _WIDTH)
            line = f"{label:<24} [{'#' * filled}{'.' * (_WIDTH - filled)}] {fraction:4.0%} {detail}".rstrip()
            sys.stderr.write(f"\r{line:<{len(self._drawn)}}")
            sys.stderr.flush()
            self._drawn = line
        elif time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            print(f"{label} {fraction:.0%} {detail}".rstrip(), file=sys.stderr, flush=True)
            self._last = time.monotonic()

    def close(self) -> None:
        """End the line."""
        if self._drawn:
            sys.stderr.write("\n")
            sys.stderr.flush()
            self._drawn = ""
