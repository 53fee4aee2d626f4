"""The native API's bodies and answers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from server.jobs.job import PRIORITIES, Priority, Status
from server.pipeline.request import GUIDANCE, LONGEST_PROMPT, PICTURES, RNGS, SEEDS, STEPS
from server.pipeline.schedulers import SCHEDULERS


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    return value


# Numbers come as JSON's or, in forms, as text; pydantic would take true for 1.
Whole = Annotated[int, BeforeValidator(_no_flag)]
Real = Annotated[float, BeforeValidator(_no_flag)]
# A form has one field for all of a list, with commas between.
Wholes = Annotated[list[Whole], BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value)]


class Txt2Img(BaseModel):
    """A picture from words. What is left out takes the model's default."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"prompt": "a red circle on a blue background", "seed": 7}]},
    )

    prompt: str = Field(description=f"What to show, up to {LONGEST_PROMPT} characters; CLIP reads the first 75 tokens")
    negative_prompt: str | None = Field(None, description="What not to show")
    width: Whole | None = Field(None, description="Pixels; a size the model was converted for (see capabilities)")
    height: Whole | None = Field(None, description="Pixels")
    steps: Whole | None = Field(None, description=f"Denoising steps, {STEPS[0]} to {STEPS[1]}")
    guidance_scale: Real | None = Field(
        None, description=f"How closely to follow the prompt, {GUIDANCE[0]:g} to {GUIDANCE[1]:g}"
    )
    seed: Whole | None = Field(
        None,
        description=f"0 to {SEEDS[1]}; -1 or none draws one. The same seed and settings give the same image on the same "
        "machine and compute unit",
    )
    scheduler: str | None = Field(None, description=f"One of {', '.join(SCHEDULERS)} (A1111's names work too)")
    n: Whole | None = Field(
        None, description=f"How many pictures, {PICTURES[0]} to {PICTURES[1]}; picture i uses seed + i"
    )
    seeds: Wholes | None = Field(
        None, description="A seed for each picture, in place of seed and n; in a form with commas between"
    )
    rng: str | None = Field(
        None,
        description=f"Whose random numbers, one of {', '.join(RNGS)}: those of diffusers (PyTorch on the CPU; the usual), "
        "of Apple's pipelines, or of AUTOMATIC1111 on an NVIDIA GPU",
    )
    variation_seed: Whole | None = Field(
        None,
        description="The seed of the noise to turn towards; -1 or none draws one where variation_strength is above 0",
    )
    variation_strength: Real | None = Field(
        None,
        description="How far to turn the noise towards variation_seed's, 0 (not at all) to 1; above 0 all pictures "
        "use seed, and picture i variation_seed + i",
    )
    model: str | None = Field(None, description="An installed model (see capabilities); the default one if left out")
    priority: Priority = Field(
        "normal",
        description=f"{', '.join(PRIORITIES)}: a job goes before all of lower priority; clients take turns within one",
    )


class Img2Img(Txt2Img):
    """A picture from a picture and words."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={})

    strength: Real | None = Field(
        None, description="How much to change, above 0 (nothing) to 1 (everything); 0.75 if left out"
    )


class Img2ImgJson(Img2Img):
    """img2img as JSON."""

    image: str = Field(description="The first picture: PNG, JPEG or WebP as base64, a data: URI prefix allowed")


class JobImageOut(BaseModel):
    """A finished picture."""

    index: int = Field(description="From 0")
    seed: int
    url: str = Field(description="Where the PNG is")


class JobErrorOut(BaseModel):
    """Why a job failed."""

    code: str
    message: str


class ProgressOut(BaseModel):
    """How far a running job is."""

    image: int = Field(description="The picture being made, from 0")
    step: int = Field(description="Steps done of this picture")
    steps: int = Field(description="Steps of this picture in all")
    fraction: float = Field(description="Of the whole job, 0 to 1")


class TimingsOut(BaseModel):
    """What a job's time went into, in seconds so far."""

    queued: float = Field(description="From acceptance to its (last) start, or to now or its end where it has none")
    running: float | None = Field(description="From its last start to its end, or to now")
    step: float | None = Field(description="A denoising step, on average")


class JobOut(BaseModel):
    """A job as it stands."""

    id: str
    status: Status
    model: str
    priority: Priority
    url: str
    request: dict[str, Any] = Field(description="What was asked, defaults filled in, the seed drawn")
    position: int | None = Field(description="How many jobs go before it; null unless queued")
    eta: float | None = Field(
        description="Seconds until it is over, by what such jobs took before; null where nothing is known yet, or it is over"
    )
    progress: ProgressOut | None
    images: list[JobImageOut]
    error: JobErrorOut | None
    created: float = Field(description="Seconds since 1970")
    started: float | None
    finished: float | None
    timings: TimingsOut
    attempts: int = Field(description="How often it was started; above 1 after a crash")


class JobsOut(BaseModel):
    """A page of jobs, the newest first."""

    jobs: list[JobOut]
    next: int | None = Field(description="`before` of the following page; null where this is the last")


class SizeOut(BaseModel):
    """A picture size in pixels."""

    width: int
    height: int
