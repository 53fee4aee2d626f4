"""The cost of a request: how many times its networks are called, and with how many rows."""

from __future__ import annotations

from dataclasses import dataclass

from converter.folder import Manifest
from server.pipeline.layout import boxes_of
from server.pipeline.prompts.composition import parts_of
from server.pipeline.request import GenerationRequest, UpscaleRequest
from server.pipeline.request.controls import applies
from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule
from server.pipeline.upscaling.enlarge import tiles_needed


@dataclass(frozen=True)
class Cost:
    """Calls of the denoising network (or of an upscaler, a tile each) for all images together, and images to decode.

    rows: those of each call; with ControlNets, also the rows that these compute, on the average of all steps.
    """

    calls: int
    rows: int
    decodes: int


def upscale_cost(request: UpscaleRequest, scale: int) -> Cost:
    """Return the cost of an enlargement by a network of this scale, in tiles; resampling is one call."""
    source, size = request.source, request.size
    if not request.tile:
        return Cost(1, 1, 1)
    tiles = tiles_needed(source.width, source.height, size.width, size.height, tile=request.tile, scale=scale)
    return Cost(tiles, 1, 1)


def is_guided(request: GenerationRequest, manifest: Manifest) -> bool:
    """Return whether each step computes a second row, for the negative prompt (classifier-free guidance).

    Models that take the guidance scale as an input (latent consistency models) do not need it.
    """
    return request.sampling.guidance_scale > 1 and manifest.conditions.guidance_width is None


def cost(request: GenerationRequest, manifest: Manifest) -> Cost:
    """Return the cost of the request with the model of this manifest."""
    scheduler = SCHEDULERS[request.sampling.scheduler].make(NoiseSchedule.of(manifest), request.sampling.steps)
    calls = len(scheduler.timesteps) - request.skipped_steps * scheduler.order
    prompts = len(parts_of(request.prompts.prompt)) if request.prompts.has_syntax else 1
    boxes = request.seeds.n * len(boxes_of(request))
    rows = prompts + is_guided(request, manifest)
    controlled = sum(applies(each, index, calls) for each in request.controls for index in range(calls))
    return Cost(calls * boxes, rows + round(rows * controlled / calls), boxes)
