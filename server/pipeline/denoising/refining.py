"""SDXL's base model and refiner: which model predicts a step, and which refiners a model may have (Podell et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.manifest import Manifest
from server.pipeline.denoising.denoiser import Moment, Predicting, Predictor
from server.pipeline.request import GenerationRequest, RequestError

_BASE, _REFINER = "sdxl", "sdxl_refiner"
#: What both models must share, so that one goes on with the other's latents and noise levels.
_SHARED = ("latent_channels", "vae_scale_factor", "vae_scaling_factor", "prediction_type", "scheduler")


@dataclass(frozen=True)
class Refined:
    """A base model's prediction down to the timestep ``switch``, and then a refiner's, on the same latents."""

    base: Predictor
    refiner: Predictor
    switch: int

    def predict(self, noisy: NDArray[np.float16], moment: Moment) -> Predicting:
        """Predict by the model whose step it is."""
        return (self.refiner if moment.timestep < self.switch else self.base).predict(noisy, moment)


@dataclass(frozen=True)
class Refining:
    """A refiner's prediction and the timestep below which it takes over."""

    refiner: Predictor
    switch: int

    def after(self, base: Predictor) -> Refined:
        """Return the prediction of ``base`` down to the switch, and then the refiner's."""
        return Refined(base, self.refiner, self.switch)


def for_refiner(request: GenerationRequest) -> GenerationRequest:
    """Return the request as the refiner reads it: ControlNets and IP-Adapters belong to the base model."""
    return request.model_copy(update={"controls": (), "adapter": None, "refiner": None})


def refiners_for(manifest: Manifest, installed: Mapping[str, Manifest]) -> list[str]:
    """Return the names of the installed refiners that go on where a model stops; none if it is no base of SDXL."""
    if manifest.family != _BASE:
        return []
    refiners = {name: each for name, each in installed.items() if each.family == _REFINER}
    return [name for name, each in refiners.items() if _difference(manifest, each) is None]


def _difference(manifest: Manifest, refiner: Manifest) -> str | None:
    """Return what differs between a model and a refiner that must be the same; None if nothing does."""
    return next((fact for fact in _SHARED if getattr(refiner, fact) != getattr(manifest, fact)), None)


def check_refiner(request: GenerationRequest, manifest: Manifest, installed: Mapping[str, Manifest]) -> None:
    """Raise RequestError unless the request's refiner is installed and goes on where the model stops.

    ``manifest`` is the model's; ``installed`` has all models by name.
    """
    if request.refiner is None:
        return
    name, size = request.refiner.refiner, request.computed
    if manifest.family != _BASE:
        raise RequestError(
            "refiner", name, f"leave it out: {request.model} is {manifest.family}, and refiners are for {_BASE}"
        )
    refiners = [model for model, each in installed.items() if each.family == _REFINER]
    if name not in refiners:
        there = (
            ", ".join(refiners) or "none yet; a conversion of stabilityai/stable-diffusion-xl-refiner-1.0 brings one"
        )
        raise RequestError("refiner", name, there)
    refiner = installed[name]
    if (size.width, size.height) not in refiner.sizes:
        sizes = ", ".join(f"{w}x{h}" for w, h in refiner.sizes)
        raise RequestError("refiner", name, f"a refiner converted for {size}; this one was for {sizes}")
    if (fact := _difference(manifest, refiner)) is not None:
        raise RequestError("refiner", name, f"a refiner with the same {fact} as {request.model}")
