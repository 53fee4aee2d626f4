"""The native API's request and response bodies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, Field

from server.events import Status
from server.jobs.job import Priority
from server.pipeline.palette.extraction import Color


class SizeOut(BaseModel):
    """An image size in pixels."""

    width: int
    height: int


class JobImageOut(BaseModel):
    """A finished image."""

    index: int = Field(description="From 0")
    seed: int | None = Field(description="Null for an enlarged image, which has none")
    url: str = Field(description="The image's path")
    flagged: bool = Field(description="Whether the safety checker found something in it; it is blurred then")


class JobErrorOut(BaseModel):
    """The reason why a job failed."""

    code: str
    message: str


class ProgressOut(BaseModel):
    """A running job's progress."""

    image: int = Field(description="The index of the current image, from 0")
    step: int = Field(description="Finished steps of this image")
    steps: int = Field(description="All steps of this image")
    fraction: float = Field(description="Of the whole job, 0 to 1")


class PreparingOut(BaseModel):
    """What a running job waits for before its first step."""

    stage: str = Field(description="merging (its model with LoRAs and embeddings), or loading (its model)")
    item: str = Field(description="The network, or what else it works on")
    done: int = Field(description="Of total: bytes when merging, networks when loading")
    total: int


class TimingsOut(BaseModel):
    """A job's times in seconds so far."""

    queued: float = Field(description="From acceptance to the last start; without a start, to the end or to now")
    running: float | None = Field(description="From the last start to the end, or to now")
    step: float | None = Field(description="The average denoising step")


class ColorOut(BaseModel):
    """A color of an image."""

    hex: str = Field(description="The color in sRGB, #rrggbb")
    rgb: tuple[int, int, int] = Field(description="Red, green and blue, 0 to 255")
    share: float = Field(description="The share of the pixels that are nearest to it, 0 to 1")


def colors_out(colors: Iterable[Color]) -> list[ColorOut]:
    """Return colors as a response body has them."""
    return [ColorOut(**color.shown()) for color in colors]


class JobOut(BaseModel):
    """A job's current state."""

    id: str
    status: Status
    model: str
    priority: Priority
    url: str
    task: str | None = Field(description="The task; null if what is stored is damaged")
    size: SizeOut | None = Field(description="The size of the images")
    computed: SizeOut | None = Field(description="The size that the model computed, from which the images were made")
    request: dict[str, Any] = Field(
        description="The request, with defaults filled in and the seed that was drawn; empty if what is stored is damaged"
    )
    position: int | None = Field(description="Jobs that run before it; null unless queued")
    paused: str | None = Field(
        description="Why jobs do not run now, and what to do; null while they do, or if the job has ended"
    )
    eta: float | None = Field(
        description="Seconds until the job ends, estimated from earlier jobs; null without earlier jobs, or after its end"
    )
    progress: ProgressOut | None
    preparing: PreparingOut | None = Field(
        description="What is done before the first step: LoRAs are merged, the model is loaded; null otherwise"
    )
    notes: list[str] = Field(
        description="What was done to the inputs or the images that the request did not ask for, in sentences"
    )
    palette: list[ColorOut] | None = Field(
        description="The colors of palette_image, the largest share first; null without one"
    )
    images: list[JobImageOut]
    error: JobErrorOut | None
    created: float = Field(description="Seconds since 1970")
    started: float | None
    finished: float | None
    timings: TimingsOut
    attempts: int = Field(description="The number of starts; above 1 after a crash")


class JobsOut(BaseModel):
    """A page of jobs, the newest first."""

    jobs: list[JobOut]
    next: int | None = Field(description="`before` of the following page; null on the last page")
