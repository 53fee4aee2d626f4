"""A command's time and peak memory, measured from outside."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_EVERY_S = 0.02


@dataclass(frozen=True)
class Cost:
    """Seconds, and the largest memory of the process and its children in bytes.

    ``own_bytes`` leaves out mapped file pages, which the system can drop at any time (RssAnon, not RssFile).
    ``printed`` is what it wrote to standard output.
    """

    seconds: float
    own_bytes: int
    resident_bytes: int
    printed: str


def memory(pid: int, below: bool = True) -> tuple[int, int]:
    """Own and resident bytes of a process and, with ``below``, all it started; of those that have ended, nothing."""
    own = resident = 0
    waiting = [pid]
    while waiting:
        at = Path(f"/proc/{waiting.pop()}")
        try:
            lines = dict(line.split(":", 1) for line in (at / "status").read_text().splitlines())
            children = (at / "task" / at.name / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        kilobytes = {name: int(lines[name].split()[0]) for name in ("RssAnon", "VmRSS") if name in lines}
        own += 1024 * kilobytes.get("RssAnon", 0)
        resident += 1024 * kilobytes.get("VmRSS", 0)
        waiting += [int(child) for child in children if below]
    return own, resident


def cost(command: list[str]) -> Cost:
    """Run a command to its end; raises CalledProcessError where it fails."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    own = resident = 0
    while process.poll() is None:
        now = memory(process.pid)
        own, resident = max(own, now[0]), max(resident, now[1])
        time.sleep(_EVERY_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds = time.perf_counter() - begun
    return Cost(seconds, own, resident, process.stdout.read() if process.stdout else "")
