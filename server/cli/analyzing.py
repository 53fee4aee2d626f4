"""Measures how sensitive a UNet's layers are, and writes recipes of mixed palettes, for ``anemone analyze``."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from converter import __version__
from converter.conversion.convert import write_model
from converter.conversion.plan import ConversionPlan
from converter.conversion.planning import make_plan
from converter.errors import AnemoneError, CheckpointError
from converter.folder import ModelFolder
from converter.mil import can_store, target_named
from converter.networks.registry import UNET
from converter.options import DEFAULT_OPTIONS, ConvertOptions, Size
from converter.progress import Progress
from converter.runtime import Network
from converter.runtime.program import declared_features
from converter.sources.source import open_source
from converter.verification.sensitivity import Layer, Sensitivity, allocate
from converter.weights.activations import LEAST_DB, LEAST_LARGEST, MOST_LARGEST, Activation, Activations
from converter.weights.encodings import PALETTE_BITS, Encoding, Encodings
from converter.weights.recipe import Recipe
from server.pipeline.networks import load_package
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from server.terminal import Bar

#: A finished part of an analysis: the errors of a layer's weight, the layers' gains on an input, or a layer's activations.
T = TypeVar("T", dict[int, float], dict[str, float], Activation)
_Inputs: TypeAlias = dict[str, NDArray[Any]]

_PROMPTS = (
    "a black and brown dog standing outside a door",
    "a red circle on a blue background",
    "a train with graffiti on it, a mountain range in the background",
    "a portrait of an old woman, oil painting",
    "two bowls of soup and a spoon on a wooden table, photo from above",
    "a city at night in the rain, neon signs, anime",
    "a small white house by the sea, watercolor",
    "a robot reading a newspaper, 3d render",
)
#: Larger images take longer, and change little: a layer's sensitivity is an average over pixels.
_LARGEST = 256
_STEPS = 8
#: Steps of the images on which gains are measured: so many of each prompt's, and of all together. One more of each prompt is
#: for comparing recipes, since on what they were chosen for they seem better than they are.
_STEPS_EACH, _STEPS_TOGETHER = 2, 16
#: The inputs on which the activations of a layer after the other are measured.
_FOR_ACTIVATIONS = 4
_LOCK = "lock"
#: Widths that are measured for all layers at once, to compare recipes with.
_UNIFORM = (8, 6, 4)
#: The width for which the file tells what each layer alone costs.
_SINGLE_BITS = 4


@dataclass(frozen=True)
class AnalyzeOptions:
    """What to measure on, and which recipes to write.

    averages: bits for each element of the layers, on average, one recipe each.
    prompts: of the images; empty: eight of ours.
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

    @property
    def used_prompts(self) -> list[str]:
        """The prompts of the images."""
        return list(self.prompts or _PROMPTS)


class _Recorder:
    """A UNet that keeps a copy of the inputs of each call."""

    def __init__(self, network: Network) -> None:
        self._network, self.inputs, self.outputs = network, network.inputs, network.outputs
        self.calls: list[dict[str, NDArray[Any]]] = []

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.calls.append({name: np.array(array) for name, array in inputs.items()})
        return self._network.predict(inputs)


@dataclass(frozen=True)
class _Calibration:
    """Inputs of the UNet: those that gains are measured on, and others, one for each prompt, that recipes are compared on."""

    measured: list[_Inputs]
    compared: list[_Inputs]


def _calibration(model: ModelFolder, prompts: Sequence[str], bar: Bar) -> _Calibration:
    """Return inputs of the UNet from images of the prompts, each prompt's from a later step than the one before."""
    recorders: list[_Recorder] = []

    def loader(path: Path, function: str, compute_units: str) -> Network:
        network = load_package(path, function, compute_units)
        if "sample" not in network.inputs:
            return network
        recorders.append(_Recorder(network))
        return recorders[-1]

    pipeline, result = StableDiffusion(model, {}, loader), _Calibration([], [])
    for number, prompt in enumerate(prompts):
        bar.show("calibration images", number, len(prompts))
        for _ in pipeline.generate(bind(model.manifest, prompt=prompt, steps=_STEPS, seed=number), {}):
            pass
        (recorder,) = recorders
        calls = recorder.calls
        first = number * (len(calls) - 1) // max(len(prompts) - 1, 1)
        count = min(max(_STEPS_EACH, -(-_STEPS_TOGETHER // len(prompts))), len(calls) - 1)
        *measured, compared = [calls[(first + len(calls) * k // (count + 1)) % len(calls)] for k in range(count + 1)]
        result.measured.extend(measured)
        result.compared.append(compared)
        recorder.calls = []
    return result


class _Finished(Generic[T]):
    """What is measured, by name, on disk after each, so that an interrupted analysis continues."""

    def __init__(self, file: Path, identity: list[Any], kind: type[T]) -> None:
        self._file, self._identity = file, identity
        self._done: dict[str, T] = {}
        if file.is_file():
            try:
                content = json.loads(file.read_bytes())
                if content["identity"] == identity:
                    self._done = TypeAdapter(dict[str, kind]).validate_python(content["done"])  # type: ignore[valid-type]
            except (ValueError, LookupError, TypeError):
                pass  # damaged: everything is measured again

    def _add(self, name: str, found: T) -> None:
        self._done[name] = found
        content = {"identity": self._identity, "done": self._done}
        _replace(self._file, TypeAdapter(dict[str, Any]).dump_json(content).decode())

    def measured(self, what: str, names: Iterable[str], measure: Callable[[str], T], bar: Bar) -> dict[str, T]:
        """Return what is measured by each of these names; ``measure`` those that are missing."""
        wanted = list(names)
        for number, name in enumerate(wanted):
            bar.show(what, number, len(wanted), name)
            if name not in self._done:
                self._add(name, measure(name))
        return {name: self._done[name] for name in wanted}


@contextmanager
def _parts(out: Path) -> Iterator[Path]:
    """Make the folder beside ``out`` for what is finished, and keep others from it. Raises AnemoneError."""
    if out.is_dir():
        raise AnemoneError(f"{out} is a folder; give the JSON file to write, such as {out / 'recipes.json'}")
    if out.exists() and not out.is_file():
        raise AnemoneError(f"{out} is not a file, and would be replaced; give the JSON file to write")
    parts = out.with_name(f".{out.name}.parts")
    try:
        parts.mkdir(parents=True, exist_ok=True)
        lock = (parts / _LOCK).open("w")
    except OSError as error:
        raise AnemoneError(f"{out} cannot be written: {error.strerror}; give a file where one can be made") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AnemoneError(f"another analysis is writing {out}; wait for it, or give another file") from error
        try:
            yield parts
        finally:
            if parts.is_dir() and os.listdir(parts) == [_LOCK]:
                shutil.rmtree(parts)


def _replace(file: Path, text: str) -> None:
    written = file.with_name(f".{file.name}.written")
    try:
        written.write_text(text, encoding="utf-8")
        os.replace(written, file)
    except OSError as error:
        raise AnemoneError(f"{file} cannot be written: {error.strerror}; the same command continues") from error


def _plan(source: str, options: AnalyzeOptions) -> ConversionPlan:
    checkpoint = open_source(source)
    usual = make_plan(checkpoint, ConvertOptions())
    width, height = options.size or (min(side, _LARGEST) for side in usual.sizes[0])
    if UNET.name not in usual.networks:
        raise CheckpointError(f"{source} has no UNet to analyze")
    if not _compressible(usual):
        raise CheckpointError(f"no layer of {source}'s UNet has a weight that is large enough to be compressed")
    return make_plan(checkpoint, ConvertOptions(sizes=((width, height),), verify=False))


def _recipes(
    layers: Mapping[str, Layer], sensitivity: Sensitivity, options: AnalyzeOptions, bar: Bar
) -> tuple[dict[str, float], dict[str, dict[str, int]]]:
    """Return the PSNR in dB with all layers at each uniform width and with each recipe, by name, and the recipes."""
    baselines: dict[str, float] = {}
    recipes: dict[str, dict[str, int]] = {}
    total = len(_UNIFORM) + len(options.averages)
    for number, bits in enumerate(_UNIFORM):
        bar.show("all layers at once", number, total, f"{bits} bits")
        baselines[f"palette_{bits}bit"] = round(sensitivity.psnr(dict.fromkeys(layers, bits)), 2)
    for number, average in enumerate(options.averages, len(_UNIFORM)):
        bar.show("all layers at once", number, total, f"{average:g} bits")
        recipe, name = allocate(layers, average, options.widths), f"recipe_{average:.2f}_bit_mixedpalette"
        recipes[name], baselines[name] = recipe, round(sensitivity.psnr(recipe), 2)
    return baselines, recipes


@dataclass(frozen=True)
class _Analysis:
    """A checkpoint's UNet, what it is measured on, and the folder that keeps what is finished."""

    plan: ConversionPlan
    sensitivity: Sensitivity
    calibration: _Calibration
    parts: Path
    options: AnalyzeOptions
    bar: Bar

    def finished(self, name: str, kind: type[T]) -> _Finished[T]:
        identity = [__version__, self.plan.fingerprint, self.options.used_prompts]
        return _Finished(self.parts / f"{name}.json", identity, kind)

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


def _analyze_weights(analysis: _Analysis) -> tuple[dict[str, Any], list[str]]:
    """Return the content of a file of recipes, and what to print of it."""
    shapes, layers = _compressible(analysis.plan), analysis.layers()
    baselines, recipes = _recipes(layers, analysis.sensitivity, analysis.options, analysis.bar)
    single = {path: [round(db, 1) for db in layer.decibels(_SINGLE_BITS)] for path, layer in layers.items()}
    lines = []
    for name, db in baselines.items():
        average = "" if name not in recipes else f"{Recipe(name, recipes[name]).average(shapes):5.2f} bits on average"
        lines.append(f"{name:32} {db:5.1f} dB  {average}".rstrip())
    return {"single_layer": {str(_SINGLE_BITS): single}, "baselines": baselines, "recipes": recipes}, lines


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
    with _parts(out) as parts:
        lines = _analyze(_plan(source, options), parts, out, options)
        shutil.rmtree(parts)
    print("\n".join(lines))
    return 0


def _analyze(plan: ConversionPlan, parts: Path, out: Path, options: AnalyzeOptions) -> list[str]:
    """Write the file ``out``, by what is in ``parts`` or is written there; return what to print."""
    bar = Bar()
    try:
        model = write_model(plan, parts / "model", lambda p: _show_conversion(bar, p))
        package = model.default(UNET.name)
        features = declared_features(model.path / package.path, package.function)
        calibration = _calibration(model, options.used_prompts, bar)
        scale = model.manifest.defaults.guidance_scale
        compared = calibration.compared
        if options.activations:
            compared = compared[:: -(-len(compared) // _FOR_ACTIVATIONS)]
        sensitivity = Sensitivity(plan.config(UNET.name), plan.tensors(UNET.name), *features, compared, scale)
        analysis = _Analysis(plan, sensitivity, calibration, parts, options, bar)
        found, lines = (_analyze_activations if options.activations else _analyze_weights)(analysis)
    finally:
        bar.close()
    content = {"model_version": plan.name, "made_by": f"anemone {__version__}", **found}
    _replace(out, json.dumps(content, indent=1) + "\n")
    return lines


def _show_conversion(bar: Bar, progress: Progress) -> None:
    bar.show(f"{progress.stage} {progress.item}", progress.done, progress.total)
