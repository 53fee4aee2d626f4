"""Run a function in a child process, because Core ML may end the process that calls it.

A program can load for the Neural Engine even if its compilation failed, and the system then kills the process in the
first prediction (coremltools #2758); asking for the compute plan of a package that is not compiled aborts it.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from converter.errors import AnemoneError

Result = TypeVar("Result")
#: Loading compiles for the compute unit: 140 s where 667 MB failed on a Mac (coremltools #2758), 9 minutes for SDXL on a
#: phone (ml-stable-diffusion #255). A process that takes three times as long is stuck.
LIMIT_SECONDS = 30 * 60


class ChildDied(AnemoneError):
    """A process ended before it returned a result."""


class WorkFailed(AnemoneError):
    """Work in another process raised an error, whose message this has."""


def _do(answers: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        answer = (True, work(*arguments))
    except AnemoneError as error:
        answer = (False, str(error))
    except Exception as error:
        # Sent as text: the parent may not be able to import a framework's exception class.
        answer = (False, f"{type(error).__name__}: {error}")
    answers.send(answer)


def ending(code: int) -> str:
    """Describe how a process ended, by its exit code; a negative one is a signal's number."""
    if code >= 0:
        return f"ended with status {code}"
    named = {s.value: s.name for s in signal.Signals}
    return f"was ended by {named.get(-code, f'signal {-code}')}"


def in_child(work: Callable[..., Result], *arguments: Any, limit_seconds: float = LIMIT_SECONDS) -> Result:
    """Return ``work(*arguments)``, computed in a new process; work, arguments and result must be picklable.

    Raises ChildDied if the process ends without a result, naming the signal, or has none after ``limit_seconds`` (it is
    then killed), and WorkFailed with the message of what ``work`` raised.
    """
    context = multiprocessing.get_context("spawn")
    answers, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_do, args=(theirs, work, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        if not answers.poll(limit_seconds):
            process.kill()
            raise ChildDied(f"the process had no answer after {limit_seconds:.0f} s")
        done, answer = answers.recv()
    except EOFError:
        process.join()
        raise ChildDied(f"the process {ending(process.exitcode or 0)}") from None
    finally:
        answers.close()
    process.join()
    if not done:
        raise WorkFailed(answer)
    return answer  # type: ignore[no-any-return]
