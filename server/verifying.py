"""``anemone verify``: a converted model beside the libraries its checkpoint was made for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import CheckpointError
from converter.folder import ModelFolder, Package, sized
from converter.plan import ConversionPlan, ConvertOptions, make_plan
from converter.reference import ReferenceNetwork
from converter.runtime import Network, load
from converter.runtime.program import declared
from converter.source import open_source
from converter.verify import LEAST_DB, compare, psnr
from server.jobs.request import make_request
from server.pipeline.denoise import Picture
from server.pipeline.stable_diffusion import StableDiffusion
from server.terminal import Bar


def _picture(model: StableDiffusion, bar: Bar, label: str, **fields: Any) -> np.ndarray[Any, Any]:
    request = make_request(model.manifest, **fields)
    for event in model.generate(request):
        if isinstance(event, Picture):
            return event.pixels
        bar.show(label, event.index, event.total)
    raise AssertionError("a request makes at least one picture")


def _references(folder: ModelFolder, plan: ConversionPlan) -> dict[str, str]:
    """Package file -> its network."""
    found = {package.path: name for name, packages in folder.manifest.networks.items() for package in packages}
    if missing := sorted(set(found.values()) - set(plan.networks)):
        raise CheckpointError(f"the source has no {missing[0]}, which the model has; give the source it was made from")
    return found


def verify_model(
    path: Path, against: str, options: ConvertOptions, size: tuple[int, int] | None, prompt: str, steps: int
) -> int:
    """Compare every network, and a whole picture of ``steps`` steps, with the source; returns the exit status.

    ``options`` has what was given beside the source (a replacement VAE, ControlNets). The picture is made twice by the
    same loop, with the packages and with the source's networks; that the loop makes diffusers' pictures is what the
    tests hold it to.
    """
    folder = ModelFolder.open(path)
    options = replace(options, prompt_once="unet_prompt" in folder.manifest.networks)
    plan = make_plan(open_source(against), options)
    networks, bar = _references(folder, plan), Bar()
    size = size or folder.manifest.sizes[0]
    agreed: dict[str, float] = {}

    def reference(file: Path, function: str, units: str) -> Network:
        network = networks[file.name]
        return ReferenceNetwork(network, plan.config(network), plan.tensors(network), *declared(file, function))

    def at_size(network: str) -> Package:
        return folder.packages(network, *(size if sized(network) else ()))[0]

    try:
        for number, network in enumerate(folder.manifest.networks):
            bar.show(f"comparing {network}", number, len(folder.manifest.networks))
            package = at_size(network)
            ours = load(path / package.path, function=package.function)
            theirs = reference(path / package.path, package.function, "")
            agreed[network] = min(a.psnr_db for a in compare(network, ours, theirs, plan.config(network)))
        if steps:
            fields = {"prompt": prompt, "width": size[0], "height": size[1], "steps": steps, "seed": 0}
            expected = _picture(StableDiffusion(folder, {}, reference), bar, "the source's picture", **fields)
            found = _picture(StableDiffusion(folder, {}), bar, "the packages' picture", **fields)
            agreed[f"a picture in {steps} steps"] = psnr(found, expected.astype(np.float64))
    finally:
        bar.close()
    for name, psnr_db in agreed.items():
        print(f"{name:24} {psnr_db:6.1f} dB{'' if psnr_db >= LEAST_DB else f'  under {LEAST_DB:.0f} dB'}")
    return 0 if all(psnr_db >= LEAST_DB for psnr_db in agreed.values()) else 1
