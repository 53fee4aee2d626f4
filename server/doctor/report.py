"""What the doctor found, for people and for programs.

A report may be pasted into a bug report, so it holds what is listed here and nothing else: no key, no token, no host or
user name. Paths under the user's home begin with ~.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converter.runtime.compute_plan import DeviceShare
from server.doctor.machine import Kernels, Machine, Problem, Storage
from server.doctor.networks import Examined, Model, Placed


@dataclass(frozen=True)
class Report:
    """All that was found. precision, compute_units: as the server is set to."""

    versions: dict[str, str | None]
    machine: Machine
    kernels: Kernels
    storage: Storage
    precision: str
    compute_units: dict[str, str]
    models: tuple[Model, ...]
    problems: tuple[Problem, ...]


def without_home(found: Any) -> Any:
    """The same with the user's home folder as ~ in every text, since its name is the user's."""
    if isinstance(found, str):
        home = str(Path.home())
        return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", found) if len(home) > 1 else found
    if isinstance(found, dict):
        return {key: without_home(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [without_home(value) for value in found]
    return found


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs; ``ok`` is whether nothing is wrong."""
    found: dict[str, Any] = without_home({"ok": not report.problems, **asdict(report)})
    return found


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _share(share: DeviceShare, of: str) -> str:
    part = "" if share.cost is None else f" with {100 * share.cost:.0f} % of the {of}"
    return f"{share.device} {share.operations} operations{part}"


def _placed(placed: Placed) -> str:
    if placed.problem is not None:
        return f"no {placed.source}: {placed.problem}"
    if placed.source == "compute plan":
        return f"compute plan: {', '.join(_share(share, 'cost') for share in placed.shares)}"
    words = ", ".join(_share(share, "multiplications") for share in placed.shares)
    return f"prediction for an {placed.chip}, not measured: {words}"


def _network(one: Examined, mac: bool) -> Iterable[str]:
    where = f" on {one.compute_units}" if mac else f" (on a Mac: {one.compute_units})"
    timing = one.timing
    if timing is None:
        took = f"not timed: {one.unmeasured}"
    else:
        took = (
            f"loaded in {timing.load:.2f} s, first run {timing.first:.2f} s, then {timing.step:.2f} s, "
            f"{_gigabytes(timing.memory)} of memory"
        )
    yield f"  {one.network}{where}: {took}"
    yield f"    {_placed(one.placed)}"
    for verdict in one.verdicts:
        how = "runs" if verdict.ok else f"does not run: {verdict.reason}"
        yield f"    trial: {verdict.units} {how}"


def _model(model: Model, mac: bool) -> Iterable[str]:
    about = [] if model.family is None else [model.family, f"attention {model.attention}", ", ".join(model.sizes)]
    about += [] if model.weights is None else [f"{_gigabytes(model.weights)} of weights"]
    yield f"model {model.name}: {'; '.join(about) or 'cannot be read'}"
    yield f"  {model.folder}"
    for one in model.networks:
        yield from _network(one, mac)


def as_text(report: Report) -> str:
    """The report in words for a terminal."""
    machine, kernels, storage = report.machine, report.kernels, report.storage
    mac = "macOS" in machine.system
    units = ", ".join(f"{name} {units}" for name, units in report.compute_units.items()) or "as each model is"
    libraries = (f"{name} {found or 'missing'}" for name, found in report.versions.items() if name != "anemone")
    ready = "ready" if kernels.usable else f"not used: {kernels.why}"
    state = "" if storage.exists else ", not there yet"
    lines = [
        f"anemone {report.versions['anemone']} with {', '.join(libraries)}",
        f"machine: {machine.system}, {machine.cores} cores, {', '.join(machine.devices)}",
        f"memory: {_gigabytes(machine.memory)}, {_gigabytes(machine.memory_available)} available",
        f"kernels of precision fast: {ready} ({kernels.cpu_class})",
        f"data folder: {storage.data_dir}{state}, {_gigabytes(storage.free)} free",
        f"settings: precision {report.precision}, compute units {units}",
    ]
    for model in report.models:
        lines += ["", *_model(model, mac)]
    lines.append("")
    if report.problems:
        lines += [f"wrong: {problem.what}\n  {problem.remedy}" for problem in report.problems]
    else:
        lines.append("nothing is wrong")
    return str(without_home("\n".join(lines)))
