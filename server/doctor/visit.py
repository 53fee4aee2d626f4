"""The doctor's visit: which models there are to examine, and everything put together."""

from __future__ import annotations

import json
from pathlib import Path

from converter.errors import AnemoneError
from server.doctor.machine import Problem, kernel_state, machine, storage, versions
from server.doctor.networks import Model, Show, examine
from server.doctor.report import Report, as_json, as_text
from server.models.first import FirstModel
from server.models.installed import InstalledModels
from server.settings import Settings
from server.terminal import Bar

_NO_MODEL = Problem(
    "no model is installed",
    "`anemone serve` converts the bundled one at its first start, `anemone convert` makes others",
)


def _installed(settings: Settings) -> tuple[dict[str, Path], list[Problem]]:
    """Every folder that is or should be a model, by name, damaged ones too; and what is wrong with the default."""
    found: dict[str, Path] = {}
    problems = []
    try:
        first = FirstModel(settings.model, settings.data_dir)
        for folder in first.outside:
            found[folder.resolve().name] = folder
        source = Path(first.request.source)
        if source.is_absolute() and not source.exists():
            what = f"there is no {source}, which a server would begin with"
            problems.append(Problem(what, "give another model with --model, or in the settings"))
    except AnemoneError as error:
        problems.append(Problem(f"the model of the settings: {error}", "give another one with --model"))
    root = settings.data_dir / "models"
    try:
        there = sorted(root.iterdir()) if root.is_dir() else []
    except OSError as error:
        there = []
        problems.append(Problem(f"the models in {root} cannot be listed: {error}", "give the folder back its rights"))
    for folder in there:
        # Hidden ones are in the making or being deleted.
        if folder.is_dir() and not folder.name.startswith(".") and folder not in found.values():
            found[folder.name if folder.name not in found else str(folder)] = folder
    return found, problems


def _named(which: str, settings: Settings) -> dict[str, Path]:
    """The model that was asked for: a folder, or an installed one's name. Raises UnknownModel."""
    given, own = Path(which), settings.data_dir / "models" / which
    for folder in (given, own):
        if folder.is_dir():
            return {folder.resolve().name: folder}
    model = InstalledModels(settings.data_dir).get(which)
    return {model.name: model.folder}


def visit(settings: Settings, which: str | None, chip: str, show: Show, *, quick: bool) -> Report:
    """Examine the machine and the model ``which``, or all; raises UnknownModel where there is no such model.

    ``quick`` times no network. ``show`` is called with what is being looked at.
    """
    here, problems = machine()
    disk, found = storage(settings.data_dir)
    problems += found
    folders, found = _installed(settings) if which is None else (_named(which, settings), [])
    problems += found or ([] if folders else [_NO_MODEL])
    models: list[Model] = []
    for name, folder in folders.items():
        model, found = examine(name, folder, settings, chip, show, quick=quick)
        models.append(model)
        problems += found
    return Report(
        versions(),
        here,
        kernel_state(),
        disk,
        settings.precision,
        dict(settings.compute_units),
        tuple(models),
        tuple(problems),
    )


def doctor(settings: Settings, which: str | None, chip: str, *, quick: bool, for_programs: bool) -> int:
    """Examine and print; returns the exit status: 1 where something is wrong, otherwise 0."""
    bar = Bar()
    try:
        report = visit(settings, which, chip, bar.show, quick=quick)
    finally:
        bar.close()
    print(json.dumps(as_json(report), indent=2) if for_programs else as_text(report))
    return int(bool(report.problems))
