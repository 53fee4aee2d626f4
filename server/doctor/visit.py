"""The doctor's visit: finds the models to examine, and assembles the report."""

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
    "`anemone serve` converts the bundled model at its first start; `anemone convert` makes others",
)


def _installed(settings: Settings) -> tuple[dict[str, Path], list[Problem]]:
    """Return all model folders by name, damaged ones included, and the problems of the default model."""
    folders: dict[str, Path] = {}
    problems = []
    try:
        first = FirstModel(settings.model, settings.data_dir)
        for folder in first.outside:
            folders[folder.resolve().name] = folder
        source = Path(first.request.source)
        if source.is_absolute() and not source.exists():
            what = f"the model that a server would start with, {source}, does not exist"
            problems.append(Problem(what, "choose another model with --model, or in the settings"))
    except AnemoneError as error:
        problems.append(Problem(f"the model of the settings: {error}", "choose another model with --model"))
    root = settings.data_dir / "models"
    try:
        children = sorted(root.iterdir()) if root.is_dir() else []
    except OSError as error:
        children = []
        problems.append(Problem(f"the models in {root} cannot be listed: {error}", "make the folder readable again"))
    for folder in children:
        # Hidden folders are being written or deleted.
        if folder.is_dir() and not folder.name.startswith(".") and folder not in folders.values():
            folders[folder.name if folder.name not in folders else str(folder)] = folder
    return folders, problems


def _named(which: str, settings: Settings) -> dict[str, Path]:
    """Return the model of this folder or installed name. Raises UnknownModel."""
    path, installed = Path(which), settings.data_dir / "models" / which
    for folder in (path, installed):
        if folder.is_dir():
            return {folder.resolve().name: folder}
    model = InstalledModels(settings.data_dir).get(which)
    return {model.name: model.folder}


def visit(settings: Settings, which: str | None, chip: str, show: Show, *, quick: bool) -> Report:
    """Examine the machine and the model ``which``, or all models; raise UnknownModel if it does not exist.

    ``quick`` times no network. ``show`` gets the progress.
    """
    this_machine, problems = machine()
    disk, more = storage(settings.data_dir)
    problems += more
    folders, more = _installed(settings) if which is None else (_named(which, settings), [])
    problems += more or ([] if folders else [_NO_MODEL])
    models: list[Model] = []
    for name, folder in folders.items():
        model, more = examine(name, folder, settings, chip, show, quick=quick)
        models.append(model)
        problems += more
    return Report(
        versions(),
        this_machine,
        kernel_state(),
        disk,
        settings.precision,
        dict(settings.compute_units),
        tuple(models),
        tuple(problems),
    )


def doctor(settings: Settings, which: str | None, chip: str, *, quick: bool, for_programs: bool) -> int:
    """Examine, print the report and return the exit status: 1 if there are problems, otherwise 0."""
    bar = Bar()
    try:
        report = visit(settings, which, chip, bar.show, quick=quick)
    finally:
        bar.close()
    print(json.dumps(as_json(report), indent=2) if for_programs else as_text(report))
    return int(bool(report.problems))
