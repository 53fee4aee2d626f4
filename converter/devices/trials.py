"""Which compute units run which programs of a model folder on this machine, as trials have found.

The verdicts lie in the model folder, by chip and OS build and by the package's fingerprint: another Mac, an OS update or
a package that was converted anew is tried anew. The machine they name is the reason they are no part of anemone.json.
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
from converter.devices.units import Settings, asked_units, unit_order
from converter.errors import AnemoneError
from converter.folder import ModelFolder, Package
from converter.runtime import ComputeUnit, Network
from converter.runtime.chunks import chunk_paths
from converter.runtime.package import fingerprint

log = logging.getLogger("anemone.trials")

FILE = "anemone-trials.json"
_NOTE = ".anemone-trying-"
_NUMBERS = count()


class UnitError(AnemoneError):
    """A network runs on none of the compute units it may run on."""


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)] | None


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

    The build is part of it: Core ML and the Neural Engine's compiler change with every update of macOS.
    """
    if sys.platform != "darwin":
        return f"{_cpu()}, {platform.system()} {platform.release()}"
    asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string", "kern.osversion"]
    chip, build = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    return f"{chip}, macOS {platform.mac_ver()[0]} ({build})"


def _fingerprint(folder: Path, path: str) -> str:
    package = folder / path
    # Path.is_dir raises for a name that is too long to be one.
    return fingerprint(*chunk_paths(package)) if os.path.isdir(package) else ""


@dataclass(frozen=True)
class _Entry(Verdict):
    """A verdict as its file has it: of a machine, and of a package as it was then."""

    machine: str
    fingerprint: str


_ENTRY = TypeAdapter(_Entry)


def _read_entry(where: Path, value: Any) -> _Entry | None:
    """Return a value of a file as a verdict; None where it is not one: such a verdict is found again."""
    try:
        return _ENTRY.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        log.warning("%s has a verdict that is not one (%s), so it counts for nothing", where, error.errors()[0]["msg"])
        return None


def _entries(folder: Path) -> list[_Entry]:
    """Return the file's verdicts of all machines; none if it is missing or damaged: they are found again."""
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))["verdicts"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s is damaged (%r) and counts for nothing", folder / FILE, error)
        return []
    if not isinstance(values, list):
        return []
    return [entry for value in values if (entry := _read_entry(folder / FILE, value)) is not None]


def _verdicts(folder: Path) -> Iterator[Verdict]:
    known: dict[str, str] = {}
    for entry in _entries(folder):
        if entry.machine != this_machine():
            continue
        if entry.path not in known:
            known[entry.path] = _fingerprint(folder, entry.path)
        if entry.fingerprint == known[entry.path]:
            yield Verdict(**{field.name: getattr(entry, field.name) for field in fields(Verdict)})


def read_verdicts(folder: Path) -> tuple[Verdict, ...]:
    """Return the verdicts of this machine on the packages as they are now in the model folder."""
    return tuple(_verdicts(folder))


def _entry(folder: Path, verdict: Verdict) -> _Entry:
    return _Entry(**asdict(verdict), machine=this_machine(), fingerprint=_fingerprint(folder, verdict.path))


def _write(folder: Path, entry: _Entry) -> None:
    key = attrgetter("machine", "path", "function", "units")
    partial = folder / f".{FILE}.{os.getpid()}"
    lock = os.open(folder, os.O_RDONLY)  # the folder itself, so that no file of a lock is left in it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        others = [other for other in _entries(folder) if key(other) != key(entry)]
        verdicts = [asdict(one) for one in (*others, entry)]
        partial.write_text(json.dumps({"verdicts": verdicts}, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, folder / FILE)
    except OSError as error:
        partial.unlink(missing_ok=True)
        log.warning(
            "%s cannot be written (%s): units are tried again whenever the model is loaded", folder / FILE, error
        )
    finally:
        os.close(lock)


def record(folder: Path, verdict: Verdict) -> None:
    """Write the verdict into the model folder, in place of this machine's former one of the program and compute unit."""
    _write(folder, _entry(folder, verdict))


@contextmanager
def noted(folder: Path, verdict: Verdict) -> Iterator[Path | None]:
    """Do what may kill this process: the verdict lies in a note meanwhile, and is true if the process does not come back.

    Yields the note's path, or None where the folder cannot be written to: there such a death is not remembered. The note
    is locked as long as this process lives; `settle` finds those that are not.
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
    """Make verdicts of the notes that dead processes left in the model folder."""
    for note in folder.glob(f"{_NOTE}*"):
        try:
            with note.open(encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                entry = _read_entry(note, json.load(file))
        except (BlockingIOError, FileNotFoundError):
            continue  # it is being done, or is done by now
        except (ValueError, RecursionError):
            entry = None  # half written, so nothing had begun
        except OSError as error:
            log.warning("%s cannot be read (%s) and counts for nothing", note, error)
            continue
        if entry is not None:
            _write(folder, entry)
        note.unlink(missing_ok=True)


class Trials:
    """The compute units of a model's programs on this machine, found by trial where it is not known yet.

    ``settings`` are a person's (see `converter.devices.units`). ``tell`` is called with every note (see `noted`) as it is written.
    """

    def __init__(self, model: ModelFolder, settings: Settings, tell: Callable[[Path], None]) -> None:
        self._model, self._settings, self._tell = model, settings, tell
        self._said: set[Verdict] = set()
        self._tried: dict[tuple[str, str, str], Verdict] = {}

    def units(self, network: str, package: Package) -> ComputeUnit:
        """Return the best compute unit the program runs on; a trial of a large network takes minutes. Raises UnitError."""
        settle(self._model.path)
        known = {
            v.units: v
            for v in read_verdicts(self._model.path)
            if (v.path, v.function) == (package.path, package.function)
        }
        failed = []
        for units in unit_order(self._model.manifest, network, self._settings):
            # Where the file cannot be written, what this object tried counts.
            mine = self._tried.get((package.path, package.function, units))
            verdict = known.get(units) or mine or self._try(network, package, units)
            if verdict.ok:
                return units
            failed.append(verdict)
            if verdict not in self._said:
                self._said.add(verdict)
                log.warning("%s does not run on %s on this machine: %s", network, units, verdict.reason)
        reasons = "; ".join(f"{verdict.units}: {verdict.reason}" for verdict in failed)
        asked = asked_units(network, self._settings)
        raise UnitError(
            f"{network} of {self._model.manifest.name} does not run on this machine ({reasons}). "
            + (f"The setting compute_units asks for {asked}; leave it out, or name another unit. " if asked else "")
            + f"After a change, delete {self._model.path / FILE} to have it tried again"
        )

    def _try(self, network: str, package: Package, units: ComputeUnit) -> Verdict:
        log.info("trying %s on %s, for the first time on this machine as it is; this can take minutes", network, units)
        found = attempt(self._model.path / package.path, package.function, units)
        verdict = Verdict(
            network,
            package.path,
            package.function,
            units,
            found.reason is None,
            found.reason,
            found.load_seconds,
            found.predict_seconds,
        )
        self._tried[package.path, package.function, units] = verdict
        record(self._model.path, verdict)
        return verdict

    def load(self, network: str, package: Package, loader: Callable[[Path, str, str], Network]) -> Network:
        """Load the program on its unit. Should the process die now, or in the first prediction, that unit is not used again."""
        units = self.units(network, package)
        with self._first(network, package, units, "while it was loaded"):
            loaded = loader(self._model.path / package.path, package.function, units)
        return _Unproven(loaded, lambda: self._first(network, package, units, "in its first prediction"))

    @contextmanager
    def _first(self, network: str, package: Package, units: ComputeUnit, when: str) -> Iterator[None]:
        died = Verdict(network, package.path, package.function, units, False, f"its process died {when}", None, None)
        with noted(self._model.path, died) as note:
            if note is not None:
                self._tell(note)
            yield


class _Unproven:
    """A network whose first prediction is done inside ``first``."""

    def __init__(self, network: Network, first: Callable[[], AbstractContextManager[None]]) -> None:
        self.inputs, self.outputs = network.inputs, network.outputs
        self._network, self._first, self._proven = network, first, False

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network once; raises InputError before anything runs."""
        if self._proven:
            return self._network.predict(inputs)
        with self._first():
            found = self._network.predict(inputs)
        self._proven = True
        return found
