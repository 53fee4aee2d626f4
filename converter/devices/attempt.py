"""A program's first load and prediction on a compute unit, in a child process that may die of it.

Core ML loads a program for the Neural Engine whose compilation for it failed, and kills the process in the first
prediction (coremltools #2758): nothing can be caught. `converter.devices.child` cannot be used here: the server's worker
is a daemonic process, and multiprocessing gives those no children.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.devices.child import LIMIT_SECONDS, ending
from converter.errors import AnemoneError, cut
from converter.runtime import ComputeUnit, Feature, load
from converter.runtime.chunks import chunk_paths

_LIMIT_EXCEEDED_SECONDS = 60
#: Characters of a message: a pipe holds it whole, since it is read after the process has ended.
_LONGEST = 900
_CHILD = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given.pop('sys_path'); "
    "from converter.devices.attempt import child; child(**given)"
)


@dataclass(frozen=True)
class Attempt:
    """How it went. reason: why the program cannot be used; None where it can. Seconds are None where it did not come so far."""

    reason: str | None
    load_seconds: float | None = None
    predict_seconds: float | None = None


def attempt(path: Path, function: str, units: ComputeUnit, limit_seconds: float = LIMIT_SECONDS) -> Attempt:
    """Load the function of the package at ``path`` on the compute unit and predict once, in a child process.

    Raises AnemoneError where it could not be tried, which is no fault of the unit: the package is damaged, for instance.
    """
    reading, writing = os.pipe()
    given = {"path": str(path), "function": function, "units": units, "limit": limit_seconds, "report": writing}
    command = [sys.executable, "-c", _CHILD, json.dumps({**given, "sys_path": sys.path})]
    with open(reading, "rb") as report:
        # Its input is this process's life; its messages, Core ML's among them, are this process's.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[writing])
        os.close(writing)
        try:
            status: int | None = process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            process.kill()
            process.wait()
            process.stdin.close()  # type: ignore[union-attr]
            for part in chunk_paths(path):
                _clear(part, process.pid)
        said: dict[str, Any] = {}
        for line in report.read().splitlines():
            try:
                said |= json.loads(line)
            except (ValueError, TypeError):
                continue  # half a line, of a process that died as it wrote
    if "error" in said or (status is not None and status > 0):
        raise AnemoneError(said.get("error", f"{path} could not be tried: its process left with status {status}"))
    times = said.get("load_seconds"), said.get("predict_seconds")
    if "done" in said:
        return Attempt(said["done"], *times)
    when = "while it was loaded" if times[0] is None else "in its first prediction"
    if status is None:
        return Attempt(f"it had not finished {limit_seconds:.0f} s later, {when}", *times)
    return Attempt(f"its process died {when} (it {ending(status)})", *times)


def _clear(path: Path, pid: int) -> None:
    """Remove what a process that died left of compiling the package."""
    from converter.runtime.coreml import partial_of

    shutil.rmtree(partial_of(path, pid), ignore_errors=True)


def _inputs(features: Mapping[str, Feature]) -> dict[str, NDArray[Any]]:
    """Something of each input's shape and type: noise, as latents and prompts' states are near to; token 0 of tokens."""
    rng = np.random.default_rng(0)
    given = {}
    for name, feature in features.items():
        if feature.default is not None:
            continue
        tokens = feature.dtype.kind != "f" or name == "input_ids"  # which Apple's packages take as floats
        values = np.zeros(feature.shape) if tokens else rng.standard_normal(feature.shape)
        given[name] = values.astype(feature.dtype)
    return given


def child(path: str, function: str, units: ComputeUnit, limit: float, report: int) -> None:
    """The child process's main: write how far it has come to the file descriptor ``report``, a JSON object a line."""
    # Whoever waits for this may be gone: it then leaves at the next chance, and at the latest when it is too late.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(limit) + _LIMIT_EXCEEDED_SECONDS)
    threading.Thread(target=_leave_with_parent, daemon=True).start()

    def say(**what: Any) -> None:
        os.write(report, json.dumps(what).encode() + b"\n")

    say(**_outcome(Path(path), function, units, say))
    # Without the interpreter's end: Core ML's threads still have this process's arrays.
    os._exit(0)


def _outcome(path: Path, function: str, units: ComputeUnit, say: Callable[..., None]) -> dict[str, str | None]:
    began = time.monotonic()
    try:
        network = load(path, function=function, compute_units=units)
        say(load_seconds=time.monotonic() - began)
        inputs, began = _inputs(network.inputs), time.monotonic()
        found = network.predict(inputs)
        say(predict_seconds=time.monotonic() - began)
    except (AnemoneError, ImportError) as error:
        return {"error": cut(str(error), _LONGEST)}
    except Exception as error:  # whatever Core ML says
        # A full disk, as a package is compiled, says nothing of the unit.
        if isinstance(error, OSError | MemoryError) or os.strerror(errno.ENOSPC) in str(error):
            return {"error": cut(f"{path} could not be tried: {error}", _LONGEST)}
        return {"done": cut(f"{type(error).__name__}: {error}", _LONGEST)}
    wrong = [name for name, array in found.items() if not np.isfinite(array).all()]
    return {"done": f"its {' and '.join(wrong)} has numbers that are not finite" if wrong else None}


def _leave_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)
