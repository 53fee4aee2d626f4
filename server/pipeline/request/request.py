"""The generation request: its parts, its fields as clients set them, and how it is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from converter.manifest import Manifest
from server.pipeline.boxes.windows import Windows
from server.pipeline.fields import Derived, Part, RequestField, fields_of, part_of, values_of
from server.pipeline.limits import Items
from server.pipeline.request.adapter import Adapter
from server.pipeline.request.addons import LORAS, Embedding, Lora
from server.pipeline.request.conditions import NAME, PROMPT, Prompts
from server.pipeline.request.controls import Control
from server.pipeline.request.edits import Mask, Outpaint, Palette, Source
from server.pipeline.request.output import Output
from server.pipeline.request.sampling import Extent, Hires, Refiner, Sampling, Size
from server.pipeline.request.seeds import Seeds
from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule


def task_of(parts: Mapping[str, Any]) -> str:
    """Return the task's name that a request's parts tell: a source image, a mask, an extension and a prompt."""
    if parts.get("source") is None:
        return "txt2img"
    if parts.get("outpaint") is not None:
        return "outpaint"
    if parts.get("mask") is not None:
        return "inpaint"
    prompts = parts.get("prompts")
    # What is stored may be damaged; validation says so.
    return "img2img" if isinstance(prompts, Mapping) and prompts.get("prompt") else "variations"


class GenerationRequest(Part):
    """A request for one or several images.

    task: the name of the task that was called, or else that the parts tell.
    model: the installed model that it was bound to when it was accepted.
    size: the size of the images that the client gets.
    computed: the size that the networks compute, for which the model was converted.
    source: None for images from noise alone (txt2img). The other parts that are None are not asked for.
    loras: those of the prompt's tags among them, which the prompts do not have any more.
    embeddings: those whose words the prompts have.
    notes: what a client should know about how its request was understood, and what of it has no effect.
    """

    task: Annotated[str, Derived()]
    model: str = Field(
        max_length=NAME, description="An installed model (see capabilities); the default one if left out"
    )
    prompts: Prompts
    size: Size
    computed: Annotated[Size, Derived()]
    sampling: Sampling
    seeds: Seeds
    source: Source | None = None
    mask: Mask | None = None
    outpaint: Outpaint | None = None
    palette: Palette | None = None
    adapter: Adapter | None = None
    hires: Hires | None = None
    refiner: Refiner | None = None
    controls: Annotated[tuple[Control, ...], Items(3, "control")] = Field(
        (), description="Images that say where things go, each read by one of the model's ControlNets"
    )
    loras: Annotated[tuple[Lora, ...], LORAS] = Field(
        (),
        description="LoRAs that are merged into the model, beside those of tags in the prompt such as <lora:name:0.8>",
    )
    output: Output = Output()
    embeddings: Annotated[tuple[Embedding, ...], Derived()] = ()
    notes: Annotated[tuple[str, ...], Derived()] = ()

    @model_validator(mode="before")
    @classmethod
    def _with_task(cls, values: Any) -> Any:
        """Add the task to requests that earlier versions stored without it."""
        return {"task": task_of(values), **values} if isinstance(values, dict) else values

    @property
    def skipped_steps(self) -> int:
        """The number of first steps that img2img leaves out; 0 for txt2img."""
        if self.source is None:
            return 0
        return self.sampling.steps - int(self.sampling.steps * self.source.strength)

    @property
    def result(self) -> Extent:
        """The size of the images that the client gets; a side may be longer than those that are asked for."""
        scale = 1.0 if self.hires is None else self.hires.hires_scale
        return Extent(width=round(self.size.width * scale), height=round(self.size.height * scale))

    def timesteps(self, manifest: Manifest) -> tuple[list[float], list[float]]:
        """Return the timestep of each of an image's predictions, in the first pass and in the second."""
        schedule, sampling = NoiseSchedule.of(manifest), self.sampling

        def of(steps: int, skipped: int) -> list[float]:
            scheduler = SCHEDULERS[sampling.scheduler].make(schedule, steps, sampling.sigmas)
            return [*map(float, scheduler.timesteps[skipped * scheduler.order :])]

        second = [] if self.hires is None else of(*self.hires.scheduled(sampling.steps))
        return of(sampling.steps, self.skipped_steps), second

    def finest(self, multiple: int) -> Extent:
        """Return the size that the last pass computes: for hires fix the larger one, whose sides are multiples of ``multiple``."""
        scale = 1.0 if self.hires is None else self.hires.hires_scale
        width, height = (
            max(side, math.ceil(side * scale / multiple) * multiple)
            for side in (self.computed.width, self.computed.height)
        )
        return Extent(width=width, height=height)

    def in_windows(self, manifest: Manifest) -> bool:
        """Return whether the second pass works on windows: the model was not converted for its size."""
        finest = self.finest(manifest.vae_scale_factor)
        return (finest.width, finest.height) not in manifest.sizes

    def windows(self, manifest: Manifest) -> int:
        """Return the number of windows that the second pass predicts for in each step; 1 if it works on the whole image."""
        if not self.in_windows(manifest):
            return 1
        factor, window = manifest.vae_scale_factor, self.computed
        finest = self.finest(factor)
        shape = finest.height // factor, finest.width // factor
        return len(Windows(shape, (window.height // factor, window.width // factor)).places)

    @property
    def images(self) -> int:
        """The number of images."""
        return self.seeds.n

    @property
    def attached(self) -> Size:
        """The size in which large attachments are stored until the job runs; a control's image lies on the whole canvas."""
        return self.size

    def values(self) -> dict[str, Any]:
        """Return the values of the fields that clients set, by name, without attachments and None."""
        return values_of(self, FIELDS)


#: Every field that a client may set.
FIELDS: tuple[RequestField, ...] = tuple(fields_of(GenerationRequest))


def field_named(name: str) -> RequestField:
    """Return the field of this name; raise StopIteration if there is none."""
    return next(field for field in FIELDS if field.name == name)


#: The parts that a request may lack, by name.
OPTIONAL_PARTS: dict[str, type[Part]] = {
    name: part
    for name, info in GenerationRequest.model_fields.items()
    if (part := part_of(info)) is not None and info.default is None
}


def longest_prompt() -> int:
    """Return the largest number of characters in a prompt."""
    return PROMPT.most
