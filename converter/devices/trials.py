"""Try which compute units run the programs of a model folder on this machine, and keep the verdicts.

The verdicts are in a file of the model folder, with the chip, the OS build and the package's fingerprint: on another Mac,
after an OS update or after a new conversion, programs are tried again. They name a machine, so they are not in
anemone.json.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import count
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from converter.devices.attempt import attempt
from converter.devices.units import Settings, requested_units, unit_order
from converter.errors import AnemoneError
from converter.folder import ModelFolder
from converter.manifest import Package
from converter.runtime import ComputeUnit, Network
from converter.runtime.chunks import chunk_paths
from converter.runtime.package import fingerprint

log = logging.getLogger("anemone.trials")

FILE = "anemone-trials.json"
_NOTE = ".anemone-trying-"
_NUMBERS = count()


class UnitError(AnemoneError):
    """A network runs on no compute unit that it may use."""


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)] | None


@dataclass(frozen=True)
class Verdict:
    """The result of trying a program on a compute unit of one machine.

    path: its package, relative to the model folder.
    reason: why it does not run; None if it does.
    load_seconds: time of the first load, which on a Mac includes compiling for the compute unit; None if it failed.
    predict_seconds: time of the first prediction; None if it failed.
    """

    network: str
    path: str
    function: str
    units: str
    ok: bool
    reason: str | None
    load_seconds: Seconds
    predict_seconds: Seconds


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


@cache
def this_machine() -> str:
    """Return the chip and the OS with its build ("Apple M2 Pro, macOS 26.1 (25B78)"); off a Mac the CPU and the kernel.

    The build is included because Core ML and the Neural Engine's compiler change with every update of macOS.
    """
    if sys.platform != "darwin":
        return f"{_cpu()}, {platform.system()} {platform.release()}"
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string", "kern.osversion"]
    chip, build = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return f"{chip}, macOS {platform.mac_ver()[0]} ({build})"


def _fingerprint(folder: Path, path: str) -> str:
    package = folder / path
    # Path.is_dir raises if the name is too long.
    return fingerprint(*chunk_paths(package)) if os.path.isdir(package) else ""


@dataclass(frozen=True)
class _Entry(Verdict):
    """A verdict in the file, with its machine and the package's fingerprint at that time."""

    machine: str
    fingerprint: str


_ENTRY = TypeAdapter(_Entry)


def _read_entry(where: Path, value: Any) -> _Entry | None:
    """Return a value of the file as a verdict; None if it is not one: the program is then tried again."""
    try:
        return _ENTRY.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        log.warning("%s has a damaged verdict (%s), which is ignored", where, error.errors()[0]["msg"])
        return None


def _entries(folder: Path) -> list[_Entry]:
    """Return the file's verdicts of all machines; empty if it is missing or damaged: programs are then tried again."""
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))["verdicts"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s is damaged (%r) and is ignored", folder / FILE, error)
        return []
    if not isinstance(values, list):
        return []
    return [entry for value in values if (entry := _read_entry(folder / FILE, value)) is not None]


def _verdicts(folder: Path) -> Iterator[Verdict]:
    fingerprints: dict[str, str] = {}
    for entry in _entries(folder):
        if entry.machine != this_machine():
            continue
        if entry.path not in fingerprints:
            fingerprints[entry.path] = _fingerprint(folder, entry.path)
        if entry.fingerprint == fingerprints[entry.path]:
            yield Verdict(**{field.name: getattr(entry, field.name) for field in fields(Verdict)})


def read_verdicts(folder: Path) -> tuple[Verdict, ...]:
    """Return this machine's verdicts on the packages that are now in the model folder."""
    return tuple(_verdicts(folder))


def _entry(folder: Path, verdict: Verdict) -> _Entry:
    return _Entry(**asdict(verdict), machine=this_machine(), fingerprint=_fingerprint(folder, verdict.path))


def _write(folder: Path, entry: _Entry) -> None:
    key = attrgetter("machine", "path", "function", "units")
    partial = folder / f".{FILE}.{os.getpid()}"
    lock = os.open(folder, os.O_RDONLY)  # the folder itself, so that no lock file stays in it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        others = [other for other in _entries(folder) if key(other) != key(entry)]
        verdicts = [asdict(e) for e in (*others, entry)]
        partial.write_text(json.dumps({"verdicts": verdicts}, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, folder / FILE)
    except OSError as error:
        partial.unlink(missing_ok=True)
        log.warning(
            "%s cannot be written (%s): units are tried again each time the model is loaded", folder / FILE, error
        )
    finally:
        os.close(lock)


def record(folder: Path, verdict: Verdict) -> None:
    """Write the verdict into the model folder; it replaces this machine's former one of the program and compute unit."""
    _write(folder, _entry(folder, verdict))


@contextmanager
def noted(folder: Path, verdict: Verdict) -> Iterator[Path | None]:
    """Keep the verdict in a note during work that may kill this process; it becomes true if the process dies.

    Yields the note's path, or None if the folder cannot be written to: then such a death is not recorded. The note is
    locked while this process lives; `settle` reads unlocked notes.
    """
    note = folder / f"{_NOTE}{os.getpid()}-{next(_NUMBERS)}"
    partial = note.with_name(f"{note.name}.partial")
    try:
        file = partial.open("w", encoding="utf-8")
    except OSError:
        yield None
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump(asdict(_entry(folder, verdict)), file)
        file.flush()
        partial.rename(note)
        try:
            yield note
        finally:
            note.unlink(missing_ok=True)


def settle(folder: Path) -> None:
    """Turn the notes of dead processes in the model folder into verdicts."""
    for note in folder.glob(f"{_NOTE}*"):
        try:
            with note.open(encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                entry = _read_entry(note, json.load(file))
        except (BlockingIOError, FileNotFoundError):
            continue  # its process lives, or has removed it
        except (ValueError, RecursionError):
            entry = None  # incomplete, so the work had not begun
        except OSError as error:
            log.warning("%s cannot be read (%s) and is ignored", note, error)
            continue
        if entry is not None:
            _write(folder, entry)
        note.unlink(missing_ok=True)


class Trials:
    """The compute units of a model's programs on this machine; unknown ones are tried.

    ``settings`` are the user's (see `converter.devices.units`). ``on_note`` is called with every note (see `noted`) as it
    is written.
    """

    def __init__(self, model: ModelFolder, settings: Settings, on_note: Callable[[Path], None]) -> None:
        self._model, self._settings, self._on_note = model, settings, on_note
        self._logged: set[Verdict] = set()
        self._tried: dict[tuple[str, str, str], Verdict] = {}

    def units(self, network: str, package: Package) -> ComputeUnit:
        """Return the best compute unit that runs the program; trying a large network takes minutes. Raises UnitError."""
        settle(self._model.path)
        verdicts = {
            v.units: v
            for v in read_verdicts(self._model.path)
            if (v.path, v.function) == (package.path, package.function)
        }
        failed = []
        for units in unit_order(self._model.manifest, network, self._settings):
            # If the file cannot be written, the verdicts of this object count.
            own = self._tried.get((package.path, package.function, units))
            verdict = verdicts.get(units) or own or self._try(network, package, units)
            if verdict.ok:
                return units
            failed.append(verdict)
            if verdict not in self._logged:
                self._logged.add(verdict)
                log.warning("%s does not run on %s on this machine: %s", network, units, verdict.reason)
        reasons = "; ".join(f"{verdict.units}: {verdict.reason}" for verdict in failed)
        setting = requested_units(network, self._settings)
        raise UnitError(
            f"{network} of {self._model.manifest.name} does not run on this machine ({reasons}). "
            + (f"The setting compute_units asks for {setting}; leave it out, or name another unit. " if setting else "")
            + f"After a change, delete {self._model.path / FILE} to try again"
        )

    def _try(self, network: str, package: Package, units: ComputeUnit) -> Verdict:
        log.info("trying %s on %s for the first time on this machine and OS; this can take minutes", network, units)
        result = attempt(self._model.path / package.path, package.function, units)
        verdict = Verdict(
            network,
            package.path,
            package.function,
            units,
            result.reason is None,
            result.reason,
            result.load_seconds,
            result.predict_seconds,
        )
        self._tried[package.path, package.function, units] = verdict
        record(self._model.path, verdict)
        return verdict

    def load(self, network: str, package: Package, loader: Callable[[Path, str, str], Network]) -> Network:
        """Load the program on its unit. If the process dies now or in the first prediction, the unit is not used again."""
        units = self.units(network, package)
        with self._first(network, package, units, "while it was loaded"):
            loaded = loader(self._model.path / package.path, package.function, units)
        return _Unproven(loaded, lambda: self._first(network, package, units, "in its first prediction"))

    @contextmanager
    def _first(self, network: str, package: Package, units: ComputeUnit, when: str) -> Iterator[None]:
        died = Verdict(network, package.path, package.function, units, False, f"its process died {when}", None, None)
        with noted(self._model.path, died) as note:
            if note is not None:
                self._on_note(note)
            yield


class _Unproven:
    """A network whose first prediction runs inside ``first``."""

    def __init__(self, network: Network, first: Callable[[], AbstractContextManager[None]]) -> None:
        self.inputs, self.outputs = network.inputs, network.outputs
        self._network, self._first, self._proven = network, first, False

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network once; raises InputError before anything runs."""
        if self._proven:
            return self._network.predict(inputs)
        with self._first():
            outputs = self._network.predict(inputs)
        self._proven = True
        return outputs
