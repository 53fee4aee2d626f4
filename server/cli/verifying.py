"""``anemone verify``: a converted model beside the libraries its checkpoint was made for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial as bound
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from converter.conversion.plan import ConversionPlan, make_plan
from converter.errors import CheckpointError
from converter.folder import ModelFolder
from converter.lint import CHIPS, DEFAULT_CHIP
from converter.networks.registry import kind_of
from converter.runtime import Network, load
from converter.runtime.mil import MILNetwork
from converter.runtime.program import declared_features
from converter.runtime.ranges import Range, report
from converter.sources.source import open_source
from converter.verification.reference import ReferenceNetwork
from converter.verification.verify import LEAST_DB, compare, psnr
from server.pipeline.denoiser import GeneratedImage
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from server.terminal import Bar

#: What a run by Core ML itself is called: the only one that is a device's answer and not the program's.
_DEVICE = "Core ML"

#: The file of each package that was run, and the ranges of its operations.
Recorded: TypeAlias = list[tuple[str, dict[str, Range]]]


@dataclass(frozen=True)
class VerifyOptions:
    """How to verify a model.

    size: the picture's; None for the model's first.
    steps: of the picture; 0 compares networks only.
    precision: the arithmetic beside fp32, "fp16" or "ane" (see `converter.runtime.precision`).
    chip: whose engine, for "ane".
    ranges: how many of each network's operations nearest to overflow are told.
    """

    size: tuple[int, int] | None = None
    prompt: str = "a photograph of an astronaut riding a horse"
    steps: int = 4
    precision: str = "fp16"
    chip: str = DEFAULT_CHIP
    ranges: int = 0


def _picture(model: StableDiffusion, bar: Bar, label: str, **fields: Any) -> np.ndarray[Any, Any]:
    request = bind(model.manifest, **fields)
    for event in model.generate(request, {}):
        if isinstance(event, GeneratedImage):
            return event.pixels
        bar.show(label, event.index, event.total)
    raise AssertionError("a request makes at least one picture")


def _references(folder: ModelFolder, plan: ConversionPlan) -> dict[str, str]:
    """Package file -> its network."""
    found = {package.path: name for name, packages in folder.manifest.networks.items() for package in packages}
    if missing := sorted(set(found.values()) - set(plan.networks)):
        raise CheckpointError(f"the source has no {missing[0]}, which the model has; give the source it was made from")
    return found


def _loaders(trial: VerifyOptions, recorded: Recorded) -> dict[str, Callable[..., Network]]:
    """What runs the packages: the interpreter in fp32 and in the trial's precision, and what serves them here."""

    def exact(file: Path, function: str, units: str, stream: bool = False) -> Network:
        return MILNetwork(file, function, stream=stream)

    def rounded(file: Path, function: str, units: str, stream: bool = False) -> Network:
        network = MILNetwork(
            file,
            function,
            precision=trial.precision,
            narrow_slices=CHIPS[trial.chip].narrow_slices,
            record=trial.ranges > 0,
            stream=stream,
        )
        recorded.append((file.name, network.ranges))
        return network

    def as_served(file: Path, function: str, units: str, stream: bool = False) -> Network:
        return load(file, function=function)

    return {"fp32": exact, trial.precision: rounded, _DEVICE if sys.platform == "darwin" else "fast": as_served}


def _accepted(run: str, psnr_db: float) -> bool:
    """Whether a run is as near as it must be.

    LEAST_DB judges the program as written, on our runtime. A device answers as well as it can (others measured the
    Neural Engine at 34.5 dB and the GPU at 74 dB on the same weights), so of its answer only non-finite numbers fail.
    """
    return bool(np.isfinite(psnr_db)) if run == _DEVICE else psnr_db >= LEAST_DB


def _ranges(recorded: Recorded, networks: dict[str, str], trial: VerifyOptions) -> str:
    """The operations nearest to overflow, network by network, over all that was run."""
    found: dict[str, dict[str, Range]] = {}
    for file, ranges in recorded:
        known = found.setdefault(networks[file], {})
        for name, one in ranges.items():
            known[name] = known[name].merge(one) if name in known else one
    tables = [f"\n{network} in {trial.precision}\n{report(r.values(), trial.ranges)}" for network, r in found.items()]
    if trial.precision == "ane":
        tables.append(
            "\nThe Neural Engine's limits are as others measured them; none was confirmed here on a Mac. They show overflow, "
            "not the engine's rounding error, which others measured at 34.5 dB for Stable Diffusion 1.5's UNet."
        )
    return "\n".join(tables)


def verify_model(path: Path, against: str, changes: dict[str, Any], trial: VerifyOptions) -> int:
    """Compare every network, and a whole picture, with the source; returns the exit status.

    The source is read with the options that the model's manifest keeps, and ``changes`` to them (where a replacement
    VAE is now). The image is made by the same loop, with the packages and with the source's networks; tests compare that
    loop's images with diffusers'.
    """
    folder = ModelFolder.open(path)
    options = replace(folder.manifest.options, **changes)
    plan = make_plan(open_source(against, prediction_type=options.prediction_type), options)
    if plan.family.name != folder.manifest.family:
        raise CheckpointError(
            f"{against} is of family {plan.family.name} and {path} of {folder.manifest.family}; give the source it was made "
            "from"
        )
    networks, bar = _references(folder, plan), Bar()
    size = trial.size or folder.manifest.sizes[0]
    recorded: Recorded = []
    loaders = _loaders(trial, recorded)
    agreed: dict[str, dict[str, float]] = {}

    def reference(file: Path, function: str, units: str) -> Network:
        network = networks[file.name]
        return ReferenceNetwork(
            network, plan.config(network), plan.tensors(network), *declared_features(file, function)
        )

    try:
        for number, network in enumerate(folder.manifest.networks):
            bar.show(f"comparing {network}", number, len(folder.manifest.networks))
            package = folder.packages(network, *(size if kind_of(network).per_size else ()))[0]
            file, function = path / package.path, package.function
            runs = {name: bound(loader, file, function, "", stream=True) for name, loader in loaders.items()}
            least = agreed.setdefault(network, {})
            for one in compare(network, runs, reference(file, function, ""), plan.config(network)):
                least[one.run] = min(least.get(one.run, np.inf), one.psnr_db)
        if trial.steps:
            fields = {"prompt": trial.prompt, "width": size[0], "height": size[1], "steps": trial.steps, "seed": 0}
            expected = _picture(StableDiffusion(folder, {}, reference), bar, "the source's picture", **fields)
            least = agreed.setdefault(f"a picture in {trial.steps} steps", {})
            for name, loader in loaders.items():
                if name != "fp32":
                    found = _picture(StableDiffusion(folder, {}, loader), bar, f"the picture in {name}", **fields)
                    least[name] = psnr(found, expected.astype(np.float64))
    finally:
        bar.close()
    for name, least in agreed.items():
        words = ", ".join(f"{run} {psnr_db:5.1f} dB" for run, psnr_db in least.items())
        failed = [psnr_db for run, psnr_db in least.items() if not _accepted(run, psnr_db)]
        print(f"{name:24} {words}{f'  under {LEAST_DB:.0f} dB' if failed else ''}")
    if trial.ranges:
        print(_ranges(recorded, networks, trial))
    return 0 if all(_accepted(run, psnr_db) for least in agreed.values() for run, psnr_db in least.items()) else 1
