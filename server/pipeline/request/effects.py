"""Notes on what a request asks for that has no effect, so that nobody waits for a change that cannot come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from converter.manifest import Manifest
from server.pipeline.request.controls import applies
from server.pipeline.request.request import GenerationRequest
from server.pipeline.schedulers import NoiseSchedule

#: Fields that only change what guidance does.
_OF_GUIDANCE = ("negative_prompt", "guidance_rescale", "guidance_first_sigma", "guidance_last_sigma")


def without_effect(request: GenerationRequest, sent: Mapping[str, Any], manifest: Manifest) -> tuple[str, ...]:
    """Return a sentence for each field of ``sent``, what a client sent, that does not change the images."""
    first, second = request.timesteps(manifest)
    timesteps = first + second
    return (
        *_of_guidance(request, sent, manifest, timesteps),
        *_of_seeds(sent),
        *_of_images(request),
        *_of_controls(request, len(timesteps)),
        *_of_refiner(request, manifest, timesteps),
    )


def _of_guidance(
    request: GenerationRequest, sent: Mapping[str, Any], manifest: Manifest, timesteps: Sequence[float]
) -> Iterator[str]:
    sampling, sigmas = request.sampling, [*map(NoiseSchedule.of(manifest).sigma_at, timesteps)]
    if sampling.guidance_scale <= 1:
        why = "at a guidance_scale of 1 and below"
    elif not sampling.is_guided(manifest) and request.refiner is None:
        why = "with this model, which reads guidance_scale as an input"
    elif not any(map(sampling.guidance_interval.contains, sigmas)):
        levels = f"the steps' noise levels go from {max(sigmas):.4g} to {min(sigmas):.4g}"
        yield f"no step is guided: none lies between guidance_first_sigma and guidance_last_sigma; {levels}"
        return
    else:
        return
    yield from (f"{name} has no effect {why}" for name in _OF_GUIDANCE if sent.get(name))


def _of_seeds(sent: Mapping[str, Any]) -> Iterator[str]:
    # A1111's clients send -1 with a strength of 0.
    if sent.get("variation_seed", -1) != -1 and not sent.get("variation_strength"):
        yield "variation_seed has no effect without a variation_strength above 0"


def _of_images(request: GenerationRequest) -> Iterator[str]:
    if request.palette is not None and request.palette.palette_strength == 0:
        yield "palette_image has no effect at a palette_strength of 0"
    if request.adapter is not None and request.adapter.adapter_scale == 0:
        yield "adapter_image has no effect at an adapter_scale of 0"


def _of_controls(request: GenerationRequest, steps: int) -> Iterator[str]:
    for index, control in enumerate(request.controls):
        if not any(applies(control, step, steps) for step in range(steps)):
            why = "its weight is 0" if control.weight == 0 else f"none of {steps} steps lies between its start and end"
            yield f"controls.{index} has no effect: {why}"


def _of_refiner(request: GenerationRequest, manifest: Manifest, timesteps: Sequence[float]) -> Iterator[str]:
    refiner = request.refiner
    if refiner is None:
        return
    switch = refiner.switch_timestep(manifest.scheduler.num_train_timesteps)
    if all(timestep >= switch for timestep in timesteps):
        yield f"the refiner has no effect: no step comes after refiner_switch, {refiner.refiner_switch:g}"
