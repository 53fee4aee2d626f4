"""The signals that end a process: the first ends it gently, a second Ctrl-C or SIGTERM at once."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: Ctrl-C, a request to end, and the end of the terminal.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], None]


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end."""

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)
        super().__init__(self.number.name)
        self.status = exit_status(number)


def exit_status(number: int) -> int:
    """Return the exit status that shells show for a process that a signal ended."""
    return 128 + number


#: Added to a signal's number, it asks the watching thread to raise the signal again.
_AGAIN = 128


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether a module is being imported at ``frame``."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


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


class _Ending:
    """The signals of this process: the main thread raises the first, a thread that watches their numbers heeds the second."""

    def __init__(self) -> None:
        self._numbers, self.arriving = os.pipe()
        os.set_blocking(self.arriving, False)
        #: Whether a signal is to be raised again. Only one at a time: each arrives twice, and must not hide a second one.
        self._is_to_be_raised = False
        self._print_dropped = sys.unraisablehook
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise Interrupted, after imports.

        Modules in C answer an interruption of their import by an ImportError and a traceback (NumPy) or abort (PyTorch).
        """
        if not _is_importing(frame):
            raise Interrupted(number)
        self._raise_again(number)

    def dropped(self, error: sys.UnraisableHookArgs) -> None:
        """Raise an interruption again that came in a destructor or a callback, where Python drops exceptions."""
        if isinstance(error.exc_value, Interrupted):
            self._raise_again(error.exc_value.number)
        else:
            self._print_dropped(error)

    def _raise_again(self, number: int) -> None:
        if not self._is_to_be_raised:
            self._is_to_be_raised = True
            os.write(self.arriving, bytes([_AGAIN + number]))

    def watch(self) -> None:
        """Read the number of each signal as it arrives, also while the main thread is in the middle of a step."""
        seen = 0
        while byte := os.read(self._numbers, 1):
            number = byte[0]
            if number > _AGAIN:
                time.sleep(0.05)
                seen -= 1  # its number arrives once more
                self._is_to_be_raised = False
                _thread.interrupt_main(signal.Signals(number - _AGAIN))
            elif number == signal.SIGHUP:
                # The kernel and the shell may both send it when a terminal is closed, so it never counts as the second.
                _detach_terminal(self._terminals)
                seen = max(seen, 1)
            elif number in ENDING:
                seen += 1
                if seen > 1:
                    _end_now(number)


def end_gently_then_at_once() -> None:
    """Raise Interrupted in the main thread at the first signal; at a second one, kill the children and exit.

    Called once in a process, by the main thread.
    """
    ending = _Ending()
    for number in ENDING:
        if _is_heeded(number):
            signal.signal(number, ending.interrupt)
    sys.unraisablehook = ending.dropped
    signal.set_wakeup_fd(ending.arriving, warn_on_full_buffer=False)
    threading.Thread(target=ending.watch, name="signals", daemon=True).start()


def end_at_once() -> None:
    """Leave signals to the system from now on: nothing is left to be ended gently."""
    for number in ENDING:
        if _is_heeded(number):
            signal.signal(number, signal.SIG_DFL)
