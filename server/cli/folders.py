"""What commands that write a folder share: the bar, and a look at the place before any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from converter.errors import AnemoneError
from converter.progress import OnProgress, Progress
from server.terminal import Bar


def _megabytes(done: int, total: int) -> str:
    return f"{done / 2**20:.0f} of {total / 2**20:.0f} MB"


def showing(bar: Bar) -> OnProgress:
    """Return a progress listener that shows bytes of weights on the bar."""

    def show(p: Progress) -> None:
        left = "" if p.eta_s is None else f", {p.eta_s:.0f} s left"
        bar.show(f"{p.stage} {p.item}", p.done, p.total, f"{_megabytes(p.done, p.total)}{left}")

    return show


@contextmanager
def going_on_later() -> Iterator[None]:
    """Have an interruption say that the same command goes on."""
    try:
        yield
    except KeyboardInterrupt as interrupted:
        interrupted.add_note("the same command goes on with what is finished")
        raise


def require_writable(out: Path) -> None:
    """Raise AnemoneError unless ``out`` can be made, in a folder that exists or is made with it."""
    above = next(folder for folder in out.absolute().parents if folder.exists())
    try:
        with TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise AnemoneError(
            f"{out} cannot be written: {above}: {error.strerror}; accepted: a new folder where one can be made"
        ) from error
