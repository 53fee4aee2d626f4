"""Measures how sensitive a UNet's layers are, and writes recipes of mixed palettes, for ``anemone analyze``."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converter import __version__
from converter.conversion.convert import write_model
from converter.conversion.plan import ConversionPlan
from converter.conversion.planning import make_plan
from converter.errors import AnemoneError, CheckpointError
from converter.mil import can_store, target_named
from converter.networks.registry import UNET
from converter.options import DEFAULT_OPTIONS, ConvertOptions, Size
from converter.progress import Progress
from converter.runtime.program import declared_features
from converter.sources.checkpoint import DEFAULTS
from converter.sources.configs import MOST_PROMPTS
from converter.sources.source import open_source
from converter.verification.sensitivity import Layer, Nearness, Sensitivity, allocate
from converter.weights.activations import LEAST_DB, LEAST_LARGEST, MOST_LARGEST, Activation, Activations
from converter.weights.encodings import PALETTE_BITS, Encoding, Encodings
from converter.weights.recipe import Recipe
from server.cli.calibration import PROMPTS, Calibration, calibrate
from server.cli.finished import Finished, T, parts_beside, replace_file
from server.cli.folders import going_on_later
from server.pipeline.prompts.tags import without_tags
from server.terminal import Bar

#: Larger images take longer, and change little: a layer's sensitivity is an average over pixels.
_LARGEST = 256
#: The inputs on which the activations of a layer after the other are measured.
_FOR_ACTIVATIONS = 4
#: Widths that are measured for all layers at once, to compare recipes with.
_UNIFORM = (8, 6, 4)
#: The width for which the file tells what each layer alone costs.
_SINGLE_BITS = 4


@dataclass(frozen=True)
class AnalyzeOptions:
    """What to measure on, and which recipes to write.

    averages: bits for each element of the layers, on average, one recipe each.
    prompts: of the images; empty: those that the checkpoint has for it, or eight of ours.
    size: of the images; None: the smaller of the checkpoint's and 256x256.
    target: the name of the macOS whose packages a recipe is for, which decides the widths.
    activations: measure layers' inputs in 8 bits, and write no recipes.
    """

    averages: tuple[float, ...]
    prompts: tuple[str, ...] = ()
    size: Size | None = None
    target: str = DEFAULT_OPTIONS.target
    activations: bool = False

    @property
    def widths(self) -> list[int]:
        """The bits that a layer's palette may have."""
        return [bits for bits in PALETTE_BITS if can_store(Encoding("palette", bits), target_named(self.target))]


def _plan(source: str, options: AnalyzeOptions) -> ConversionPlan:
    checkpoint = open_source(source)
    usual = make_plan(checkpoint, ConvertOptions())
    width, height = options.size or (min(side, _LARGEST) for side in usual.sizes[0])
    if UNET.name not in usual.networks:
        raise CheckpointError(f"{source} has no UNet to analyze")
    if not _compressible(usual):
        raise CheckpointError(f"no layer of {source}'s UNet has a weight that is large enough to be compressed")
    return make_plan(checkpoint, ConvertOptions(sizes=((width, height),), verify=False))


def _prompts(plan: ConversionPlan, options: AnalyzeOptions) -> dict[str, str]:
    """Return the prompts, by where each is given."""
    if len(options.prompts) > MOST_PROMPTS:
        raise AnemoneError(f"{len(options.prompts)} prompts are given; accepted: up to {MOST_PROMPTS}")
    own = plan.checkpoint.defaults.get("prompts")
    given: Sequence[str] = PROMPTS
    where = "ours"
    if options.prompts:
        given, where = options.prompts, "--prompt"
    elif own is not None:
        given, where = own, f"the checkpoint's {DEFAULTS}"
    prompts = {f"prompt {number} of {where}": prompt for number, prompt in enumerate(given, 1)}
    for place, prompt in prompts.items():
        if tag := next(iter(without_tags(prompt).loras), None):
            raise AnemoneError(f"{place} has {tag.written}, but the checkpoint alone is measured; leave the tag out")
    return prompts


@dataclass(frozen=True)
class _Widths:
    """What palettes of some widths, of all layers at once, do to the prediction.

    recipe: the bits of each layer, for the file; None if they all have the same.
    """

    name: str
    nearness: Nearness
    recipe: Recipe | None = None


@dataclass(frozen=True)
class _Analysis:
    """A checkpoint's UNet, what it is measured on, and the folder that keeps what is finished."""

    plan: ConversionPlan
    prompts: list[str]
    sensitivity: Sensitivity
    calibration: Calibration
    parts: Path
    options: AnalyzeOptions
    bar: Bar

    def finished(self, name: str, kind: type[T]) -> Finished[T]:
        identity = [__version__, self.plan.fingerprint, self.prompts]
        return Finished(self.parts / f"{name}.json", identity, kind)

    def layers(self) -> dict[str, Layer]:
        """Measure the layers' sensitivity."""
        shapes, seen = _compressible(self.plan), self.calibration.measured
        errors = self.finished("errors", dict[int, float]).measured(
            "palettes", shapes, self.sensitivity.errors, self.bar
        )
        gains = self.finished("gains", dict[str, float]).measured(
            "sensitivity",
            [f"input {number}" for number in range(len(seen))],
            lambda name: self.sensitivity.gains(shapes, seen[(n := int(name.split()[1]))], n),
            self.bar,
        )
        return {
            path: Layer(math.prod(shape), errors[path], tuple(each[path] for each in gains.values()))
            for path, shape in shapes.items()
        }


def _measured_widths(analysis: _Analysis, layers: Mapping[str, Layer]) -> list[_Widths]:
    """Return what each uniform width and a recipe of each average do."""
    options, sensitivity = analysis.options, analysis.sensitivity
    uniform = {f"palette_{bits}bit": bits for bits in _UNIFORM}
    recipes = {}
    for average in options.averages:
        recipe = Recipe(f"recipe_{average:.2f}_bit_mixedpalette", allocate(layers, average, options.widths))
        recipes[f"{recipe.name} for {options.target}"] = recipe

    def measure(name: str) -> Nearness:
        if name in uniform:
            return sensitivity.nearness(dict.fromkeys(layers, uniform[name]), undamped=False)
        return sensitivity.nearness(recipes[name].bits)

    found = analysis.finished("nearness", Nearness).measured(
        "all layers at once", [*uniform, *recipes], measure, analysis.bar
    )
    return [
        *(_Widths(name, found[name]) for name in uniform),
        *(_Widths(recipe.name, found[name], recipe) for name, recipe in recipes.items()),
    ]


def _analyze_weights(analysis: _Analysis) -> tuple[dict[str, Any], list[str]]:
    """Return the content of a file of recipes, and what to print of it."""
    shapes, layers = _compressible(analysis.plan), analysis.layers()
    measured = _measured_widths(analysis, layers)
    single = {path: [round(db, 1) for db in layer.decibels(_SINGLE_BITS)] for path, layer in layers.items()}
    content = {
        "single_layer": {str(_SINGLE_BITS): single},
        "baselines": {each.name: round(each.nearness.guided_db, 2) for each in measured},
        "unguided_baselines": {each.name: round(each.nearness.prediction_db, 2) for each in measured},
        "recipes": {each.name: dict(each.recipe.bits) for each in measured if each.recipe},
    }
    lines = [f"{'PSNR of the prediction':32} {'unguided':>9} {'guided':>9}"]
    for each in measured:
        average = "" if each.recipe is None else f"   {each.recipe.average(shapes):.2f} bits on average"
        nearness = each.nearness
        lines.append(f"{each.name:32} {nearness.prediction_db:6.1f} dB {nearness.guided_db:6.1f} dB{average}")
    return content, lines


def _analyze_activations(analysis: _Analysis) -> tuple[dict[str, Any], list[str]]:
    """Return the content of a file of activations, and what to print of it."""
    # What depends on the time alone is computed once for an image, and has nothing to gain.
    paths = [
        path for path in _compressible(analysis.plan) if not path.endswith("time_emb_proj") and "embedding" not in path
    ]
    analysis.bar.show("ranges", 0, 1)
    seen = [*analysis.calibration.measured, *analysis.calibration.compared]
    largest = analysis.sensitivity.largest_inputs(paths, seen)
    layers = analysis.finished("activations", Activation).measured(
        "layers",
        [path for path in paths if LEAST_LARGEST <= largest.get(path, 0) <= MOST_LARGEST],
        lambda path: analysis.sensitivity.activation(path, largest[path]),
        analysis.bar,
    )
    chosen = Activations(layers).scales
    about = f"{len(chosen)} of {len(layers)} layers keep {LEAST_DB:.0f} dB with inputs of 8 bits"
    return {"activations": {path: asdict(each) for path, each in layers.items()}}, [about]


def _compressible(plan: ConversionPlan) -> dict[str, tuple[int, ...]]:
    usual = Encodings(Encoding("palette", _SINGLE_BITS))
    return {layer: shape for layer, shape in plan.layers(UNET.name).items() if usual.of(layer, shape) is not None}


def analyze_checkpoint(source: str, out: Path, options: AnalyzeOptions) -> int:
    """Write what a checkpoint's UNet needs into the file ``out``, print a summary, and return the exit status."""
    out = out.resolve() if out.is_symlink() else out
    with parts_beside(out) as parts, going_on_later():
        lines = _analyze(_plan(source, options), parts, out, options)
        shutil.rmtree(parts)
    print("\n".join(lines))
    return 0


def _analyze(plan: ConversionPlan, parts: Path, out: Path, options: AnalyzeOptions) -> list[str]:
    """Write the file ``out``, by what is in ``parts`` or is written there; return what to print."""
    bar, prompts = Bar(), _prompts(plan, options)
    try:
        model = write_model(plan, parts / "model", lambda p: _show_conversion(bar, p))
        package = model.default(UNET.name)
        features = declared_features(model.path / package.path, package.function)
        calibration = calibrate(model, prompts, bar)
        scale = model.manifest.defaults.guidance_scale
        compared = calibration.compared
        if options.activations:
            compared = compared[:: -(-len(compared) // _FOR_ACTIVATIONS)]
        sensitivity = Sensitivity(plan.config(UNET.name), plan.tensors(UNET.name), *features, compared, scale)
        analysis = _Analysis(plan, list(prompts.values()), sensitivity, calibration, parts, options, bar)
        found, lines = (_analyze_activations if options.activations else _analyze_weights)(analysis)
    finally:
        bar.close()
    content = {"model_version": plan.name, "made_by": f"anemone {__version__}", **found}
    replace_file(out, json.dumps(content, indent=1) + "\n")
    return [*lines, *calibration.notes]


def _show_conversion(bar: Bar, progress: Progress) -> None:
    bar.show(f"{progress.stage} {progress.item}", progress.done, progress.total)
