"""The cost of a request: how many times its networks are called, and with how many rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from converter.manifest import Manifest
from converter.networks.registry import UNET
from server.pipeline.canvas.layout import boxes_of
from server.pipeline.prompts.composition import parts_of
from server.pipeline.request import GenerationRequest, UpscaleRequest
from server.pipeline.request.controls import applies
from server.pipeline.schedulers import NoiseSchedule
from server.pipeline.upscaling.enlarge import tiles_needed


@dataclass(frozen=True)
class Cost:
    """What all images of a request cost together.

    calls: of the denoising network, one for each window, or of an upscaler, one for each tile.
    decodes: how many images are decoded.
    rows: those of each call; with ControlNets, also the rows that these compute, on the average of all steps.
    A call outside the guidance interval has fewer rows, and counts as the part that its rows are.
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


def cost(request: GenerationRequest, manifest: Manifest) -> Cost:
    """Return the cost of the request with the model of this manifest."""
    schedule, sampling = NoiseSchedule.of(manifest), request.sampling
    prompts = len(parts_of(request.prompts.prompt)) if request.prompts.has_syntax else 1
    rows = prompts + sampling.is_guided(manifest)
    part = Fraction(_computed(prompts, manifest), _computed(rows, manifest))

    def calls(timesteps: list[float]) -> Fraction:
        whole = sum(sampling.guidance_interval.contains(schedule.sigma_at(timestep)) for timestep in timesteps)
        return whole + part * (len(timesteps) - whole)

    first, second = request.timesteps(manifest)
    images, boxes, steps = request.seeds.n, len(boxes_of(request)), len(first)
    of_image = calls(first) * boxes + calls(second) * request.windows(manifest)
    # Hires fix has no controls.
    controlled = sum(applies(each, index, steps) for each in request.controls for index in range(steps))
    return Cost(math.ceil(images * of_image), rows + round(rows * controlled / steps), images * boxes)


def _computed(rows: int, manifest: Manifest) -> int:
    """Return how many rows the UNet computes for so many: its packages take one or two at once, filled or not."""
    batches = sorted({package.batch for package in manifest.networks.get(UNET.name, ())}) or [rows]
    batch = next((batch for batch in batches if batch >= rows), batches[-1])
    return -(-rows // batch) * batch
