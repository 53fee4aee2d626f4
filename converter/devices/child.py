"""Run a function in a process of its own, because Core ML may end the process that calls it.

A program can load for the Neural Engine although its compilation for it failed, and its first prediction is then killed
by the system (coremltools #2758); a compute plan asked of a package that is not compiled aborts.
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
#: phone (ml-stable-diffusion #255). Three times that is no work any more.
LIMIT_SECONDS = 30 * 60


class ChildDied(AnemoneError):
    """A process ended before it had done its work."""


class WorkFailed(AnemoneError):
    """Work in another process raised an error; the message says which."""


def _do(answers: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        answer = (True, work(*arguments))
    except AnemoneError as error:
        answer = (False, str(error))
    except Exception as error:
        # The parent reports it; which classes a framework raises here, the parent may not even be able to import.
        answer = (False, f"{type(error).__name__}: {error}")
    answers.send(answer)


def ending(code: int) -> str:
    """Say how a process ended, by its exit code: below 0 the number of a signal."""
    if code >= 0:
        return f"ended with status {code}"
    named = {s.value: s.name for s in signal.Signals}
    return f"was ended by {named.get(-code, f'signal {-code}')}"


def in_child(work: Callable[..., Result], *arguments: Any, limit_seconds: float = LIMIT_SECONDS) -> Result:
    """Return ``work(*arguments)``, computed in a new process; all of them must be picklable.

    Raises ChildDied where the process ends without an answer, saying by which signal, or has none when its time is up
    (it is then ended), and WorkFailed with the message of what ``work`` raised.
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
