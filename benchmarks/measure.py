"""Measures a command's time and peak memory from outside."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_EVERY_S = 0.02


@dataclass(frozen=True)
class Cost:
    """Seconds, and the largest memory of the process and its children in bytes.

    ``own_bytes`` excludes mapped file pages, which the system can drop at any time (RssAnon, not RssFile).
    ``printed``: its standard output.
    """

    seconds: float
    own_bytes: int
    resident_bytes: int
    printed: str


def memory(pid: int, children: bool = True) -> tuple[int, int]:
    """Return own and resident bytes of a process and, with ``children``, of its descendants; 0 for processes that ended."""
    own = resident = 0
    waiting = [pid]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        try:
            lines = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            ids = (folder / "task" / folder.name / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        kilobytes = {name: int(lines[name].split()[0]) for name in ("RssAnon", "VmRSS") if name in lines}
        own += 1024 * kilobytes.get("RssAnon", 0)
        resident += 1024 * kilobytes.get("VmRSS", 0)
        waiting += [int(child) for child in ids if children]
    return own, resident


def cost(command: list[str]) -> Cost:
    """Run a command to its end; raise CalledProcessError if it fails."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    own = resident = 0
    while process.poll() is None:
        own_now, resident_now = memory(process.pid)
        own, resident = max(own, own_now), max(resident, resident_now)
        time.sleep(_EVERY_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds = time.perf_counter() - begun
    return Cost(seconds, own, resident, process.stdout.read() if process.stdout else "")
