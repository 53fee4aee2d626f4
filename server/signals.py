"""The signals that end a process: the first ends it gently, a second Ctrl-C or SIGTERM at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: Ctrl-C, a request to end, and the end of the terminal.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], None]


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = exit_status(number)


def exit_status(number: int) -> int:
    """Return the exit status that shells show for a process that a signal ended."""
    return 128 + number


#: What was raised for the signals that have arrived, the first one first.
_raised: list[Interrupted] = []


def _interrupt(number: int, frame: FrameType | None) -> None:
    _raised.append(Interrupted(number))
    raise _raised[-1]


def first_interruption() -> Interrupted | None:
    """Return what the first signal raised; None if none has arrived.

    An error may have come in its place: NumPy's modules raise ImportError if they are interrupted while they are imported.
    """
    return next(iter(_raised), None)


def _is_heeded(number: int) -> bool:
    """Return whether a signal ends this process: nohup, or a shell's `&`, has it ignored."""
    return signal.getsignal(number) is not signal.SIG_IGN


@contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """Call ``handler`` at the signals that end the process; in any thread but the main one, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in ENDING if _is_heeded(number)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def ignored_by_children() -> Iterator[None]:
    """Have processes that this thread starts ignore Ctrl-C and the end of the terminal, from their first moment on.

    Both reach every process of the terminal; the process that started them decides when they end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_now(number: int) -> None:
    children = getattr(sys.modules.get("multiprocessing"), "active_children", tuple)
    for child in children():
        child.kill()
    os._exit(exit_status(number))


def _detach_terminal(terminals: list[int]) -> None:
    """Send what is still written to a closed terminal nowhere: writing to it is an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in terminals:
        os.dup2(nowhere, descriptor)


def _watch(numbers: int, terminals: list[int]) -> None:
    """Read the number of each signal as it arrives, also while the main thread is in the middle of a step."""
    seen = 0
    while byte := os.read(numbers, 1):
        number = byte[0]
        if number == signal.SIGHUP:
            # The kernel and the shell may both send it when a terminal is closed, so it never counts as the second.
            _detach_terminal(terminals)
            seen = max(seen, 1)
        elif number in ENDING:
            seen += 1
            if seen > 1:
                _end_now(number)


def end_gently_then_at_once() -> None:
    """Raise Interrupted in the main thread at the first signal; at a second one, kill the children and exit.

    Called once in a process, by the main thread.
    """
    numbers, arriving = os.pipe()
    os.set_blocking(arriving, False)
    for number in ENDING:
        if _is_heeded(number):
            signal.signal(number, _interrupt)
    signal.set_wakeup_fd(arriving, warn_on_full_buffer=False)
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
    threading.Thread(target=_watch, args=(numbers, terminals), name="signals", daemon=True).start()


def end_at_once() -> None:
    """Leave signals to the system from now on: nothing is left to be ended gently."""
    for number in ENDING:
        if _is_heeded(number):
            signal.signal(number, signal.SIG_DFL)
