"""Load a program and predict once on a compute unit, in a child process that Core ML may kill.

Core ML loads a program for the Neural Engine even if its compilation failed, and kills the process in the first
prediction (coremltools #2758), which cannot be caught. `converter.devices.child` cannot be used here: the server's worker
is a daemonic process, and multiprocessing does not allow those children.
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
#: Characters of a message: it must fit in the pipe's buffer, which is read after the process has ended.
_LONGEST = 900
_CHILD = (
    "import json, sys; arguments = json.loads(sys.argv[1]); sys.path[:] = arguments.pop('sys_path'); "
    "from converter.devices.attempt import child; child(**arguments)"
)


@dataclass(frozen=True)
class Attempt:
    """The result. reason: why the program cannot be used; None if it can. Seconds are None if it did not get so far."""

    reason: str | None
    load_seconds: float | None = None
    predict_seconds: float | None = None


def attempt(path: Path, function: str, units: ComputeUnit, limit_seconds: float = LIMIT_SECONDS) -> Attempt:
    """Load the function of the package at ``path`` on the compute unit and predict once, in a child process.

    Raises AnemoneError if the attempt was impossible for a reason other than the unit, such as a damaged package.
    """
    reading, writing = os.pipe()
    arguments = {"path": str(path), "function": function, "units": units, "limit": limit_seconds, "report": writing}
    command = [sys.executable, "-c", _CHILD, json.dumps({**arguments, "sys_path": sys.path})]
    with open(reading, "rb") as report:
        # The child exits when its stdin closes, so with this process; its stderr, with Core ML's messages, is this process's.
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
            for package in chunk_paths(path):
                _clear(package, process.pid)
        messages: dict[str, Any] = {}
        for line in report.read().splitlines():
            try:
                messages |= json.loads(line)
            except (ValueError, TypeError):
                continue  # an incomplete line of a process that died while writing
    if "error" in messages or (status is not None and status > 0):
        raise AnemoneError(messages.get("error", f"{path} could not be tried: its process ended with status {status}"))
    times = messages.get("load_seconds"), messages.get("predict_seconds")
    if "done" in messages:
        return Attempt(messages["done"], *times)
    when = "while it was loaded" if times[0] is None else "in its first prediction"
    if status is None:
        return Attempt(f"it did not finish within {limit_seconds:.0f} s, {when}", *times)
    return Attempt(f"its process died {when} (it {ending(status)})", *times)


def _clear(path: Path, pid: int) -> None:
    """Remove the partly compiled package of a dead process."""
    from converter.runtime.coreml import partial_of

    shutil.rmtree(partial_of(path, pid), ignore_errors=True)


def _inputs(features: Mapping[str, Feature]) -> dict[str, NDArray[Any]]:
    """Return inputs of the right shapes and types: normal noise, which latents and states resemble; token 0 for tokens."""
    rng = np.random.default_rng(0)
    inputs = {}
    for name, feature in features.items():
        if feature.default is not None:
            continue
        tokens = feature.dtype.kind != "f" or name == "input_ids"  # input_ids of Apple's packages are floats
        values = np.zeros(feature.shape) if tokens else rng.standard_normal(feature.shape)
        inputs[name] = values.astype(feature.dtype)
    return inputs


def child(path: str, function: str, units: ComputeUnit, limit: float, report: int) -> None:
    """Run the child process: write its progress to the file descriptor ``report``, one JSON object per line."""
    # If the parent dies, this process exits at the next chance, at the latest a minute after its time limit.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(limit) + _LIMIT_EXCEEDED_SECONDS)
    threading.Thread(target=_leave_with_parent, daemon=True).start()

    def send(**message: Any) -> None:
        os.write(report, json.dumps(message).encode() + b"\n")

    send(**_outcome(Path(path), function, units, send))
    # Exit without the interpreter's cleanup: Core ML's threads still use this process's arrays.
    os._exit(0)


def _outcome(path: Path, function: str, units: ComputeUnit, send: Callable[..., None]) -> dict[str, str | None]:
    began = time.monotonic()
    try:
        network = load(path, function=function, compute_units=units)
        send(load_seconds=time.monotonic() - began)
        inputs, began = _inputs(network.inputs), time.monotonic()
        outputs = network.predict(inputs)
        send(predict_seconds=time.monotonic() - began)
    except (AnemoneError, ImportError) as error:
        return {"error": cut(str(error), _LONGEST)}
    except Exception as error:  # Core ML raises many classes
        # A full disk while a package is compiled is not the unit's fault.
        if isinstance(error, OSError | MemoryError) or os.strerror(errno.ENOSPC) in str(error):
            return {"error": cut(f"{path} could not be tried: {error}", _LONGEST)}
        return {"done": cut(f"{type(error).__name__}: {error}", _LONGEST)}
    wrong = [name for name, array in outputs.items() if not np.isfinite(array).all()]
    return {"done": f"its {' and '.join(wrong)} has numbers that are not finite" if wrong else None}


def _leave_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)
