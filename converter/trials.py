"""Which compute units run which programs of a model folder on this machine, as trials have found.

The verdicts lie in the model folder, by chip and OS build and by the package's fingerprint: another Mac, an OS update or
a package that was converted anew is tried anew. The machine they name is the reason they are no part of anemone.json.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from converter.runtime.fingerprint import fingerprint
from converter.runtime.halves import parts

log = logging.getLogger("anemone.trials")

FILE = "anemone-trials.json"


@dataclass(frozen=True)
class Verdict:
    """Whether a program runs on a compute unit of one machine.

    path: its package, relative to the model folder.
    reason: why it does not; None where it does.
    load_seconds: how long the first load took, which on a Mac includes compiling for the compute unit; None where it did
        not get so far.
    predict_seconds: how long the first prediction took; None where it did not get so far.
    """

    network: str
    path: str
    function: str
    units: str
    ok: bool
    reason: str | None
    load_seconds: float | None
    predict_seconds: float | None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


@cache
def this_machine() -> str:
    """The chip and the OS with its build ("Apple M2 Pro, macOS 26.1 (25B78)"); off a Mac the CPU and the kernel.

    The build is part of it: Core ML and the Neural Engine's compiler change with every update of macOS.
    """
    if sys.platform != "darwin":
        return f"{_cpu()}, {platform.system()} {platform.release()}"
    asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string", "kern.osversion"]
    chip, build = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    return f"{chip}, macOS {platform.mac_ver()[0]} ({build})"


def _fingerprint(folder: Path, path: str) -> str:
    package = folder / path
    return fingerprint(*parts(package)) if package.is_dir() else ""


def _entries(folder: Path) -> list[dict[str, Any]]:
    """The file's verdicts of all machines; none where there is no file, or it is damaged: they are found again."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))["verdicts"]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s is damaged (%r) and counts for nothing", folder / FILE, error)
        return []
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _verdicts(folder: Path) -> Iterator[Verdict]:
    names = [field.name for field in fields(Verdict)]
    known: dict[str, str] = {}
    for entry in _entries(folder):
        if entry.get("machine") != this_machine() or not all(name in entry for name in names):
            continue
        verdict = Verdict(**{name: entry[name] for name in names})
        if verdict.path not in known:
            known[verdict.path] = _fingerprint(folder, verdict.path)
        if entry.get("fingerprint") == known[verdict.path]:
            yield verdict


def read_verdicts(folder: Path) -> tuple[Verdict, ...]:
    """The verdicts of this machine on the packages as they are now in the model folder."""
    return tuple(_verdicts(folder))


def record(folder: Path, verdict: Verdict) -> None:
    """Write the verdict into the model folder, in place of this machine's former one of the program and compute unit."""
    key = {"machine": this_machine(), "path": verdict.path, "function": verdict.function, "units": verdict.units}
    others = [entry for entry in _entries(folder) if any(entry.get(name) != value for name, value in key.items())]
    entry = {**key, "fingerprint": _fingerprint(folder, verdict.path), **asdict(verdict)}
    partial = folder / f".{FILE}.{os.getpid()}"
    partial.write_text(json.dumps({"verdicts": [*others, entry]}, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / FILE)
