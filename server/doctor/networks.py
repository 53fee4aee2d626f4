"""Examines a model's networks: the devices each runs on, the results of trials, and times."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import psutil

from converter.checksums import wrong_content, wrong_size
from converter.devices.child import ChildDied, WorkFailed, in_child
from converter.devices.timing import Timing, timed
from converter.devices.trials import FILE as TRIALS
from converter.devices.trials import Verdict, read_verdicts
from converter.devices.units import unit_order
from converter.errors import AnemoneError
from converter.folder import ModelFolder, package_files
from converter.lint.chips import chip_named
from converter.lint.listing import read_listing
from converter.lint.placement import Placement, work_of
from converter.lint.stored import Blobs
from converter.manifest import FILE, Manifest
from converter.networks.registry import NetworkError, kind_of, text_encoders
from converter.runtime import weight_bytes
from converter.runtime.chunks import chunk_paths
from converter.runtime.compute_plan import DeviceShare, device_shares
from converter.runtime.program import declared_features
from server.doctor.machine import Problem
from server.models.memory import memory_budget, memory_need
from server.pipeline.networks import expect_network
from server.pipeline.prompts.tokenizer import PromptTokenizer
from server.settings import Settings

#: Shows progress: a label, the number done, and the total.
Show: TypeAlias = Callable[[str, int, int], None]
_AGAIN = "convert the model again (`anemone convert SOURCE -o {folder}`), or delete it"
_ADOPT = "give a folder that `anemone convert` wrote, or run `anemone adopt` on a folder of Apple's converter"


@dataclass(frozen=True)
class Placed:
    """The devices of a program's operations.

    source: "compute plan" if Core ML said so, "prediction" if the lint judged from the package alone.
    chip: the chip of the prediction; None for a compute plan.
    shares: by device; the cost is Core ML's estimate, or in a prediction the share of all multiplications.
    """

    source: str
    chip: str | None
    shares: tuple[DeviceShare, ...] = ()
    problem: str | None = None


@dataclass
class Examined:
    """One network of a model, in the program that a default request uses.

    compute_units: the compute units to load it with on a Mac. unmeasured: the reason if it was not timed.
    """

    network: str
    package: str
    function: str
    compute_units: str
    placed: Placed
    verdicts: tuple[Verdict, ...] = ()
    timing: Timing | None = None
    unmeasured: str | None = None


@dataclass
class Model:
    """A model folder; if it cannot be read, the fields from family on keep their defaults.

    checksums: whether its files have checksums; folders that formats 1 and 2 have none.
    """

    name: str
    folder: str
    family: str | None = None
    attention: str | None = None
    sizes: tuple[str, ...] = ()
    weights: int | None = None
    checksums: bool = False
    networks: list[Examined] = field(default_factory=list)


def predicted(path: Path, function: str, chip: str) -> tuple[DeviceShare, ...]:
    """Return what the lint predicts for a chip: the shares of operations that the Neural Engine can run and cannot run."""
    counts, work = {True: 0, False: 0}, {True: 0, False: 0}
    for chunk in chunk_paths(path):
        listing = next(f for f in read_listing(chunk, Blobs()).functions if f.name == function)
        placement = Placement(listing, chip_named(chip))
        for op in listing.operations:
            engine = placement.on_engine(op)
            counts[engine] += 1
            work[engine] += work_of(listing, op)
    total = sum(work.values())
    names = {True: "Neural Engine", False: "CPU or GPU"}
    return tuple(
        DeviceShare(names[e], counts[e], work[e] / total if total else None) for e in (True, False) if counts[e]
    )


def _placed(path: Path, function: str, units: str, chip: str) -> Placed:
    if sys.platform == "darwin":
        try:
            # In a child process, because Core ML can end the process.
            return Placed("compute plan", None, in_child(device_shares, path, function, units))
        except (ChildDied, WorkFailed) as error:
            return Placed("compute plan", None, problem=str(error))
    try:
        return Placed("prediction", chip, predicted(path, function, chip))
    except Exception as error:
        # A damaged package can raise anything; report it.
        return Placed("prediction", chip, problem=str(error) or type(error).__name__)


def chosen_units(manifest: Manifest, network: str, settings: Settings, verdicts: Iterable[Verdict]) -> str | None:
    """Return the compute units that the server loads a network with; None if it failed in trials on all allowed units."""
    failed = {verdict.units for verdict in verdicts if not verdict.ok}
    order = unit_order(manifest, network, settings.compute_units)
    return next((units for units in order if units not in failed), None)


def _time(examined: Examined, path: Path, precision: str) -> Iterator[Problem]:
    """Time a network and yield its problems."""
    needed, free = weight_bytes(path), int(psutil.virtual_memory().available)
    if needed > free:
        examined.unmeasured = f"its weights take {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB of memory are free"
        return
    try:
        examined.timing = timed(path, examined.function, examined.compute_units, precision)
    except (ChildDied, WorkFailed) as error:
        examined.unmeasured = str(error)
        remedy = _AGAIN.format(folder=path.parent)
        if sys.platform == "darwin":
            remedy = f'try other compute units, such as --compute-units \'{{"{examined.network}": "CPU_AND_GPU"}}\'; or {remedy}'
        yield Problem(f"{examined.network} of {path.parent.name} does not run: {error}", remedy)
        return
    if not examined.timing.finite:
        yield Problem(
            f"the results of {examined.network} of {path.parent.name} are not finite",
            f"find the operation with `anemone verify {path.parent} --against SOURCE --ranges`, or on a Mac with --device",
        )


def _networks(
    folder: ModelFolder, settings: Settings, chip: str, model: Model, show: Show, quick: bool
) -> Iterator[Problem]:
    # Sizes take a millisecond, contents half a second per GB.
    compare = wrong_size if quick else partial(wrong_content, again=True)
    try:
        verdicts = read_verdicts(folder.path)
    except (OSError, AnemoneError) as error:
        verdicts = ()
        yield Problem(f"the trial verdicts of {model.name} cannot be read: {error}", _AGAIN.format(folder=folder.path))
    for network, tokenizer in text_encoders(folder.manifest.networks).items():
        try:
            PromptTokenizer(folder.tokenizer(tokenizer), folder.manifest.tokens)
        except (OSError, AnemoneError) as error:
            yield Problem(f"{network} cannot tokenize prompts: {error}", _AGAIN.format(folder=folder.path))
            continue
        if (wrong := compare(folder.path, folder.files(tokenizer))) is not None:
            yield Problem(f"{network} of {model.name} is damaged: {wrong}", _AGAIN.format(folder=folder.path))
    for number, network in enumerate(folder.manifest.networks):
        show(f"{model.name}: {network}", number, len(folder.manifest.networks))
        try:
            kind_of(network)
        except NetworkError as error:
            yield Problem(f"{model.name}: {error}", _AGAIN.format(folder=folder.path))
            continue
        try:
            package = folder.default(network)
        except AnemoneError as error:
            yield Problem(str(error), _AGAIN.format(folder=folder.path))
            continue
        path = folder.path / package.path
        own = tuple(v for v in verdicts if (v.path, v.function) == (package.path, package.function))
        units = chosen_units(folder.manifest, network, settings, own)
        if units is None:
            reasons = "; ".join(f"{v.units}: {v.reason}" for v in own if not v.ok)
            yield Problem(
                f"{network} of {model.name} failed on all allowed compute units ({reasons})",
                f"allow others with --compute-units, or delete {folder.path / TRIALS} to repeat the trials",
            )
            continue
        placed = _placed(path, package.function, units, chip)
        examined = Examined(network, package.path, package.function, units, placed, own)
        model.networks.append(examined)
        packages = folder.manifest.networks[network]
        wrong = folder.wrong_package(packages) or compare(folder.path, package_files(folder.manifest.files, packages))
        if wrong is not None:
            examined.unmeasured = "it is damaged"
            yield Problem(f"{network} of {model.name} is damaged: {wrong}", _AGAIN.format(folder=folder.path))
            continue
        if placed.problem is None:
            try:
                expect_network(network, path, declared_features(path, package.function)[0])
            except AnemoneError as error:
                yield Problem(f"{network} of {model.name}: {error}", _AGAIN.format(folder=folder.path))
                continue
        if quick:
            examined.unmeasured = "not requested"
            if placed.problem is not None and placed.source == "prediction":
                yield Problem(
                    f"{network} of {model.name} cannot be read: {placed.problem}", _AGAIN.format(folder=folder.path)
                )
            continue
        yield from _time(examined, path, settings.precision)


def examine(
    name: str, path: Path, settings: Settings, chip: str, show: Show, *, quick: bool
) -> tuple[Model, list[Problem]]:
    """Examine a model's folder in any state, and return the model and its problems.

    ``quick`` skips the times.
    """
    model = Model(name, str(path))
    try:
        folder = ModelFolder.read(path)
        model.checksums = bool(folder.manifest.files)
        model.family, model.attention = folder.manifest.family, folder.manifest.attention
        model.sizes = tuple(f"{w}x{h}" for w, h in folder.manifest.sizes)
        need = memory_need(folder)
        model.weights = need.together
        problems = []
        try:
            need.fit(memory_budget(settings.memory_budget_gb))
        except AnemoneError as error:
            problems.append(Problem(str(error), "convert a smaller model, or raise memory_budget_gb"))
        problems += _networks(folder, settings, chip, model, show, quick)
    except AnemoneError as error:
        # A folder that is not a model may be the user's checkpoint: do not advise to delete it.
        is_model = (path / FILE).is_file()
        return model, [Problem(str(error), f"{_AGAIN.format(folder=path)}; or {_ADOPT}" if is_model else _ADOPT)]
    except Exception as error:
        # A folder that somebody edited can break any assumption; the doctor must report which.
        what = f"the model in {path} cannot be read: {type(error).__name__}: {error}"
        return model, [Problem(what, _AGAIN.format(folder=path))]
    return model, problems
