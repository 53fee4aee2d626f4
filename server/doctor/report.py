"""The doctor's report, as text and as JSON.

Users paste it into bug reports, so it contains only the fields listed here: no key, no token, no host name, no user name.
Paths in the user's home folder start with ~.
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
    """The results of an examination. precision, compute_units: the server's settings."""

    versions: dict[str, str | None]
    machine: Machine
    kernels: Kernels
    storage: Storage
    precision: str
    compute_units: dict[str, str]
    models: tuple[Model, ...]
    problems: tuple[Problem, ...]


def without_home(value: Any) -> Any:
    """Replace the user's home folder, which names the user, by ~ in all texts of a JSON-like value."""
    if isinstance(value, str):
        home = str(Path.home())
        return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", value) if len(home) > 1 else value
    if isinstance(value, dict):
        return {key: without_home(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_home(item) for item in value]
    return value


def as_json(report: Report) -> dict[str, Any]:
    """Return the report for programs; ``ok`` is true without problems."""
    body: dict[str, Any] = without_home({"ok": not report.problems, **asdict(report)})
    return body


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


def _network(network: Examined, mac: bool) -> Iterable[str]:
    where = f" on {network.compute_units}" if mac else f" (on a Mac: {network.compute_units})"
    timing = network.timing
    if timing is None:
        took = f"not timed: {network.unmeasured}"
    else:
        took = (
            f"loaded in {timing.load:.2f} s, first run {timing.first:.2f} s, then {timing.step:.2f} s, "
            f"{_gigabytes(timing.memory)} of memory"
        )
    yield f"  {network.network}{where}: {took}"
    yield f"    {_placed(network.placed)}"
    for verdict in network.verdicts:
        how = "runs" if verdict.ok else f"does not run: {verdict.reason}"
        yield f"    trial: {verdict.units} {how}"


def _model(model: Model, mac: bool) -> Iterable[str]:
    about = [] if model.family is None else [model.family, f"attention {model.attention}", ", ".join(model.sizes)]
    about += [] if model.weights is None else [f"{_gigabytes(model.weights)} of weights"]
    yield f"model {model.name}: {'; '.join(about) or 'cannot be read'}"
    yield f"  {model.folder}"
    if model.family is not None and not model.checksums:
        yield "  no checksums, so damage shows only when a network is loaded; converting it again adds them"
    for network in model.networks:
        yield from _network(network, mac)


def as_text(report: Report) -> str:
    """Return the report as text for a terminal."""
    machine, kernels, storage = report.machine, report.kernels, report.storage
    mac = "macOS" in machine.system
    units = ", ".join(f"{name} {units}" for name, units in report.compute_units.items()) or "as each model says"
    libraries = (f"{name} {version or 'missing'}" for name, version in report.versions.items() if name != "anemone")
    ready = "ready" if kernels.usable else f"not used: {kernels.why}"
    state = "" if storage.exists else ", does not exist yet"
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
