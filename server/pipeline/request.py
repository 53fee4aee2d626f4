"""The generation request, to which every dialect converts its own format: nested by concern, immutable, bound to a model.

Each field is defined here once, with its limits, default, description and infotext key. Validation, JSON, the database, the
native API's schema, the command line's flags, the capabilities' limits and the infotext follow from the definition.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from converter.errors import AnemoneError, ManifestError
from converter.folder import Manifest
from server.errors import quoted
from server.pipeline.fields import (
    STORED,
    Attachment,
    Characters,
    Count,
    Derived,
    FromModel,
    Infotext,
    OneOf,
    Part,
    Real,
    RequestField,
    Whole,
    Wholes,
    Within,
    asked_fields,
    fields_of,
    path_of,
    unless_stored,
    value_and_reason,
    values_of,
)
from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule, UnknownScheduler, find_scheduler, usable_schedulers

#: CLIP reads 75 tokens; a text longer than this is a mistake, or an attack on the tokenizer.
_PROMPT = Characters(10_000)
_IMAGES = Within(1, 8)
_ONE_FOR_EACH = Count(_IMAGES.low, _IMAGES.high, "seeds, one for each image")
#: Characters of the longest name of a model or scheduler: that of a file.
_NAME = 255
#: A1111's names of generators; it has none for NumPy's, which Apple's pipelines use.
_INFOTEXT_RNGS = {"torch": "CPU", "numpy": "NumPy", "cuda": "NV"}
#: Random number generators: diffusers' (PyTorch on the CPU), Apple's pipelines' (NumPy's old generator), and AUTOMATIC1111's
#: (PyTorch on an NVIDIA GPU). With these, images made by that software can be reproduced.
RNGS = tuple(_INFOTEXT_RNGS)
_TO_DRAW = (None, -1)


class RequestError(AnemoneError):
    """A request's field has a value that is not accepted."""

    def __init__(self, field: str, value: object, accepted: str) -> None:
        super().__init__(f"{field} is {quoted(value)}; accepted: {accepted}")
        self.field, self.value, self.accepted = field, value, accepted


@dataclass(frozen=True)
class _Seed(Within):
    """A seed, or -1 for a random one."""

    def accepts(self, value: float) -> bool:
        """Return whether the value is -1 or a seed."""
        return value == -1 or super().accepts(value)

    def add_to(self, schema: dict[str, Any]) -> None:
        """Write the range, which includes -1."""
        schema.update(minimum=-1, maximum=self.high)


_SEED = _Seed(0, 2**32 - 1)


def _plain_text(text: str) -> str:
    if any((ord(c) < 32 and c not in "\t\r\n") or 0xD800 <= ord(c) < 0xE000 for c in text):
        raise ValueError("text without control characters and without unpaired surrogates")
    return text


def _known_scheduler(name: str) -> str:
    try:
        find_scheduler(name)
    except UnknownScheduler as error:
        raise ValueError(", ".join(SCHEDULERS)) from error
    return name


def _seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not all(map(_SEED.accepts, seeds)):
        raise ValueError(str(_SEED))
    return seeds


Text = Annotated[str, unless_stored(_plain_text), _PROMPT]


class Prompts(Part):
    """The texts that describe an image."""

    prompt: Text = Field(description="What to show; CLIP reads the first 75 tokens")
    negative_prompt: Text = Field("", description="What not to show")


class Size(Part):
    """An image's width and height in pixels."""

    width: Annotated[Whole, FromModel(lambda manifest: manifest.sizes[0][0])] = Field(
        description="Pixels; a size the model was converted for (see capabilities)"
    )
    height: Annotated[Whole, FromModel(lambda manifest: manifest.sizes[0][1])] = Field(description="Pixels")

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class Sampling(Part):
    """How an image is denoised. ``scheduler`` is a name of SCHEDULERS."""

    steps: Annotated[Whole, Within(1, 150), FromModel(lambda manifest: manifest.defaults.steps), Infotext("Steps")] = (
        Field(description="Denoising steps")
    )
    # The range of A1111's slider; at 1 and below the negative prompt has no effect.
    guidance_scale: Annotated[
        Real,
        Within(0.0, 30.0),
        FromModel(lambda manifest: manifest.defaults.guidance_scale),
        Infotext("CFG scale", "{:g}".format),
    ] = Field(description="How closely to follow the prompt")
    scheduler: Annotated[
        str, unless_stored(_known_scheduler), FromModel(lambda manifest: manifest.defaults.scheduler)
    ] = Field(max_length=_NAME, description=f"One of {', '.join(SCHEDULERS)} (A1111's names work too)")


class ImageSeeds(NamedTuple):
    """The seed of an image, and the seed of its variation's noise; None without variation."""

    seed: int
    variation: int | None


class Seeds(Part):
    """The number of images, and the seeds of their noise.

    seed: that of the first image; `of_images` has the seeds of all.
    seeds: a seed for every image; None if they follow from ``seed``.
    """

    seed: Annotated[Whole, _SEED] = Field(
        description="-1 or left out: a random one. The same seed and settings give the same image on the same machine and "
        "compute unit"
    )
    n: Annotated[Whole, _IMAGES] = Field(1, description="How many images; image i uses seed + i")
    seeds: Annotated[Wholes, unless_stored(_seeds), _ONE_FOR_EACH] | None = Field(
        None, description="A seed for each image, instead of seed and n"
    )
    variation_seed: Annotated[Whole, _SEED] | None = Field(
        None,
        description="The seed of the variation's noise; -1 or left out: a random one if variation_strength is above 0",
    )
    variation_strength: Annotated[Real, Within(0.0, 1.0)] = Field(
        0.0,
        description="How far to move from seed's noise towards variation_seed's, from 0 (not at all) to 1 (completely); "
        "above 0 all images use seed, and image i uses variation_seed + i, as in A1111",
    )
    rng: Annotated[str, OneOf(RNGS), Infotext("RNG", _INFOTEXT_RNGS.__getitem__)] = Field(
        RNGS[0],
        description="The random number generator: that of diffusers (torch: PyTorch on the CPU; the default), of "
        "Apple's pipelines (numpy), or of AUTOMATIC1111 on an NVIDIA GPU (cuda)",
    )

    @property
    def of_images(self) -> tuple[ImageSeeds, ...]:
        """The seeds of each image, as A1111 counts them (processing.py).

        Without variation, image i has seed + i; with variation, it has seed and variation seed + i.
        """
        varied = self.variation_seed if self.variation_strength > 0 else None
        seeds = self.seeds or tuple((self.seed + (i if varied is None else 0)) % 2**32 for i in range(self.n))
        variations = [None if varied is None else (varied + i) % 2**32 for i in range(self.n)]
        return tuple(map(ImageSeeds, seeds, variations))


class Source(Part):
    """The source image of img2img. ``image`` is the attachment's name."""

    image: Annotated[str, Attachment()] = Field(description="The image to start from")
    strength: Annotated[Real, Within(0, 1, above=True), Infotext("Denoising strength", "{:g}".format)] = Field(
        0.75, description="How much of the image to change, from 0 (nothing) to 1 (everything)"
    )


class GenerationRequest(Part):
    """A request for one or several images.

    model: the installed model that it was bound to when it was accepted.
    size: the size of the images that the client gets.
    computed: the size that the networks compute, for which the model was converted.
    source: None for images from noise alone (txt2img).
    """

    model: str = Field(
        max_length=_NAME, description="An installed model (see capabilities); the default one if left out"
    )
    prompts: Prompts
    size: Size
    computed: Annotated[Size, Derived()]
    sampling: Sampling
    seeds: Seeds
    source: Source | None = None

    @property
    def skipped_steps(self) -> int:
        """The number of first steps that img2img leaves out; 0 for txt2img."""
        if self.source is None:
            return 0
        return self.sampling.steps - int(self.sampling.steps * self.source.strength)

    def values(self) -> dict[str, Any]:
        """Return the values of the fields that clients set, by name, without attachments and None."""
        return values_of(self, FIELDS)


def read_request(text: str) -> GenerationRequest | None:
    """Return a stored request, whatever today's limits are; None if it is damaged."""
    try:
        return GenerationRequest.model_validate_json(text, context=STORED)
    except ValidationError:
        return None


#: Every field that a client may set.
FIELDS: tuple[RequestField, ...] = tuple(fields_of(GenerationRequest))


class _Sent(BaseModel):
    """Fields as a dialect hands them over."""

    model_config = ConfigDict(extra="forbid")


_Asked: type[BaseModel] = create_model("_Asked", __base__=_Sent, **asked_fields(FIELDS, _Sent))


def defaults(manifest: Manifest) -> dict[str, Any]:
    """Return the default of every field that has one, by name."""
    values: dict[str, Any] = {}
    for field in FIELDS:
        from_model = field.find(FromModel)
        if from_model is not None:
            values[field.name] = from_model.value(manifest)
        elif not field.info.is_required():
            values[field.name] = field.info.default
    return values


def _validated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not None, converted to their types; raises RequestError for the first wrong one."""
    try:
        return _Asked.model_validate(values).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(path_of(first), *value_and_reason(first)) from error


def _drawn(seed: int | None) -> int:
    """Return the seed, or a random one for None and -1. It is drawn when a request is accepted, so that it is stored with the job."""
    return secrets.randbelow(2**32) if seed is None or seed == -1 else seed


def _draw_seeds(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return n and every seed of a request; raises RequestError if they contradict one another."""
    n, seed, seeds = asked.get("n"), asked.get("seed"), asked.get("seeds")
    if seeds is not None:
        if n not in (None, len(seeds)):
            raise RequestError("n", n, f"the number of seeds, {len(seeds)}; or leave it out")
        if seed not in _TO_DRAW:
            raise RequestError("seed", seed, "leave it out: seeds has a seed for every image")
        seeds = tuple(map(_drawn, seeds))
        drawn = {"seeds": seeds, "n": len(seeds), "seed": seeds[0]}
    else:
        drawn = {"seed": _drawn(seed)}
    # A1111's clients send -1 with a strength of 0.
    variation = asked.get("variation_seed")
    unused = variation in _TO_DRAW and not asked.get("variation_strength")
    return drawn | {"variation_seed": None if unused else _drawn(variation)}


def computed_size(asked: Size, sizes: Sequence[tuple[int, int]]) -> Size:
    """Return the size to compute for an image of the requested size; raises RequestError if the model has no such size."""
    if (asked.width, asked.height) not in sizes:
        field = "width" if asked.width not in {w for w, _ in sizes} else "height"
        accepted = ", ".join(f"{w}x{h}" for w, h in sizes)
        raise RequestError(field, getattr(asked, field), f"the sizes this model was converted for: {accepted}")
    return asked


def _check_schedule(request: GenerationRequest, manifest: Manifest) -> None:
    """Raise RequestError unless the scheduler can make so many steps with the model's noise schedule."""
    steps, scheduler = request.sampling.steps, request.sampling.scheduler
    try:
        schedule = NoiseSchedule.of(manifest)
    except ManifestError as error:
        raise RequestError("model", request.model, f"models with a known noise schedule ({error})") from error
    enough = SCHEDULERS[scheduler].enough_timesteps
    if not enough(schedule, steps):
        most = next(n for n in range(steps, 0, -1) if enough(schedule, n))
        trained = f"this model was trained on {schedule.num_train_timesteps} timesteps"
        raise RequestError("steps", steps, f"1 to {most} with {scheduler}: {trained}")
    usable = usable_schedulers(schedule, steps)
    if scheduler not in usable:
        noise = schedule.prediction_type == "epsilon"
        why = "a predicted noise does not determine the image" if noise else f"{scheduler} is unstable"
        why = f"this model's images start from pure noise (zero terminal SNR), where {why}"
        raise RequestError("scheduler", scheduler, f"{', '.join(usable) or 'none'}: {why}")


def _check_strength(request: GenerationRequest) -> None:
    source, steps = request.source, request.sampling.steps
    if source is not None and request.skipped_steps == steps:
        # Rounded up: 0.0204 of 49 steps is no step.
        least = math.ceil(10_000 / steps) / 10_000
        accepted = f"{least:g} to 1" if least < 1 else "1"
        raise RequestError("strength", source.strength, f"{accepted} with steps {steps}: less makes no step")


def bind(manifest: Manifest, model: str | None = None, **fields: Any) -> GenerationRequest:
    """Return the request with these fields, by name; those that are missing or None take their defaults.

    ``model`` is the installed model's name; None: the manifest's own. Raises RequestError for the first wrong field.
    """
    sent = _validated(fields)
    if "image" not in sent and "strength" in sent:
        raise RequestError("strength", sent["strength"], "leave it out without an image; it belongs to img2img")
    # A model's defaults may be wrong, too.
    values = _validated(defaults(manifest) | sent) | _draw_seeds(sent)
    values |= {"model": model or manifest.name, "scheduler": find_scheduler(values["scheduler"]).name}
    parts: dict[str, dict[str, Any]] = {}
    for field in FIELDS:
        if field.part is not None and field.name in values:
            parts.setdefault(field.part, {})[field.name] = values[field.name]
    if "image" not in sent:
        del parts["source"]
    lists = {field.name: values[field.name] for field in FIELDS if field.item is not None and field.name in values}
    computed = computed_size(Size(**parts["size"]), manifest.sizes)
    request = GenerationRequest.model_validate({"model": values["model"], "computed": computed, **parts, **lists})
    _check_schedule(request, manifest)
    _check_strength(request)
    return request


def limits() -> dict[str, tuple[float, float]]:
    """Return the ranges of the number fields that every request has, by name; those with an exclusive bound are left out."""
    ranges = {f.name: f.find(Within) for f in FIELDS}
    return {name: (r.low, r.high) for name, r in ranges.items() if r is not None and not r.above}


def longest_prompt() -> int:
    """Return the largest number of characters in a prompt."""
    return _PROMPT.most
