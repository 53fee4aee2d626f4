"""Compares a converted model with the libraries its checkpoint was made for, for ``anemone verify``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial as bound
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from converter.conversion.plan import ConversionPlan
from converter.conversion.planning import make_plan
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
from converter.verification.verify import compare, psnr
from server.pipeline.denoising.denoiser import GeneratedImage, Step
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from server.terminal import Bar

#: The name of the run by Core ML itself: the only one that judges a device and not the program.
_DEVICE = "Core ML"

#: The file name of each package that ran, and the ranges of its operations.
Recorded: TypeAlias = list[tuple[str, dict[str, Range]]]


@dataclass(frozen=True)
class VerifyOptions:
    """How to verify a model.

    size: the image's; None for the model's first.
    steps: of the image; 0 compares networks only.
    precision: the arithmetic besides fp32, "fp16" or "ane" (see `converter.runtime.precision`).
    chip: the chip whose engine "ane" models.
    ranges: the number of operations nearest to overflow to report for each network.
    """

    size: tuple[int, int] | None = None
    prompt: str = "a photograph of an astronaut riding a horse"
    steps: int = 4
    precision: str = "fp16"
    chip: str = DEFAULT_CHIP
    ranges: int = 0


def _image(model: StableDiffusion, bar: Bar, label: str, **fields: Any) -> np.ndarray[Any, Any]:
    request = bind(model.manifest, **fields)
    for event in model.generate(request, {}):
        if isinstance(event, GeneratedImage):
            return event.pixels
        if isinstance(event, Step):
            bar.show(label, event.index, event.total)
    raise AssertionError("a request makes at least one image")


def _references(folder: ModelFolder, plan: ConversionPlan) -> dict[str, str]:
    """Return the network of each package file."""
    networks = {package.path: name for name, packages in folder.manifest.networks.items() for package in packages}
    if missing := sorted(set(networks.values()) - set(plan.networks)):
        raise CheckpointError(
            f"the source has no {missing[0]}, which the model has; give the checkpoint that it was converted from"
        )
    return networks


def _loaders(options: VerifyOptions, recorded: Recorded) -> dict[str, Callable[..., Network]]:
    """Return the loader of each run: the interpreter in fp32 and in the chosen precision, and the one used for serving."""

    def exact(file: Path, function: str, units: str, stream: bool = False) -> Network:
        return MILNetwork(file, function, stream=stream)

    def rounded(file: Path, function: str, units: str, stream: bool = False) -> Network:
        network = MILNetwork(
            file,
            function,
            precision=options.precision,
            narrow_slices=CHIPS[options.chip].narrow_slices,
            record=options.ranges > 0,
            stream=stream,
        )
        recorded.append((file.name, network.ranges))
        return network

    def as_served(file: Path, function: str, units: str, stream: bool = False) -> Network:
        return load(file, function=function)

    return {"fp32": exact, options.precision: rounded, _DEVICE if sys.platform == "darwin" else "fast": as_served}


def _accepted(run: str, psnr_db: float, least: float) -> bool:
    """Return whether a run is close enough to the reference.

    ``least`` (dB) applies to the program as written, on our runtime. A device has its own precision (others measured the
    Neural Engine at 34.5 dB and the GPU at 74 dB on the same weights), so its results fail only if they are not finite.
    """
    return bool(np.isfinite(psnr_db)) if run == _DEVICE else psnr_db >= least


def _ranges(recorded: Recorded, networks: dict[str, str], options: VerifyOptions) -> str:
    """Return the operations nearest to overflow of each network, over all runs, as text."""
    merged: dict[str, dict[str, Range]] = {}
    for file, ranges in recorded:
        of_network = merged.setdefault(networks[file], {})
        for name, one in ranges.items():
            of_network[name] = of_network[name].merge(one) if name in of_network else one
    tables = [
        f"\n{network} in {options.precision}\n{report(r.values(), options.ranges)}" for network, r in merged.items()
    ]
    if options.precision == "ane":
        tables.append(
            "\nOthers measured the Neural Engine's limits; we confirmed none of them on a Mac. They show overflow, not the "
            "engine's rounding error, which others measured at 34.5 dB for Stable Diffusion 1.5's UNet."
        )
    return "\n".join(tables)


def verify_model(path: Path, against: str, changes: dict[str, Any], options: VerifyOptions) -> int:
    """Compare every network, and a whole image, with the source, and return the exit status.

    The source is read with the options in the model's manifest; ``changes`` replaces some of them (such as the path of a
    replacement VAE that was moved). The same loop makes the image with the packages and with the source's networks;
    tests compare that loop's images with diffusers'.
    """
    folder = ModelFolder.open(path)
    folder.compare(again=True)
    conversion = replace(folder.manifest.options, **changes)
    plan = make_plan(open_source(against, prediction_type=conversion.prediction_type), conversion)
    if plan.family.name != folder.manifest.family:
        raise CheckpointError(
            f"{against} is of family {plan.family.name} and {path} of {folder.manifest.family}; give the checkpoint that "
            "it was converted from"
        )
    networks, bar = _references(folder, plan), Bar()
    size = options.size or folder.manifest.sizes[0]
    recorded: Recorded = []
    loaders = _loaders(options, recorded)
    agreement: dict[str, dict[str, float]] = {}
    limits = {network: plan.least_db(network) for network in folder.manifest.networks}

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
            least = agreement.setdefault(network, {})
            for result in compare(network, runs, reference(file, function, ""), plan.config(network)):
                least[result.run] = min(least.get(result.run, np.inf), result.psnr_db)
        if options.steps:
            fields = {"prompt": options.prompt, "width": size[0], "height": size[1], "steps": options.steps, "seed": 0}
            expected = _image(StableDiffusion(folder, {}, reference), bar, "the source's image", **fields)
            image = f"an image in {options.steps} steps"
            least, limits[image] = agreement.setdefault(image, {}), min(limits.values())
            for name, loader in loaders.items():
                if name != "fp32":
                    pixels = _image(StableDiffusion(folder, {}, loader), bar, f"the image in {name}", **fields)
                    least[name] = psnr(pixels, expected.astype(np.float64))
    finally:
        bar.close()
    any_failed = False
    for name, least in agreement.items():
        words = ", ".join(f"{run} {psnr_db:5.1f} dB" for run, psnr_db in least.items())
        failed = any(not _accepted(run, psnr_db, limits[name]) for run, psnr_db in least.items())
        any_failed = any_failed or failed
        print(f"{name:24} {words}{f'  under {limits[name]:.0f} dB' if failed else ''}")
    if options.ranges:
        print(_ranges(recorded, networks, options))
    return int(any_failed)
