"""Builds a tool's answer: sentences for the language model, the same as JSON, and images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.api.errors import require
from server.api.native.jobs import job_out
from server.api.service import Service
from server.events import OPEN
from server.jobs.job import Job, JobImage
from server.pipeline.encoding.formats import FORMATS, JPEG, PNG, OutputFormat

#: Bytes of an event that the SDK's client takes, and hosts of language models of a tool's result: 1 MiB.
_LARGEST = 2**20
#: Bytes of JSON around the contents.
_AROUND = 4096


@dataclass(frozen=True)
class Picture:
    """An encoded image."""

    data: bytes
    media_type: str


@dataclass(frozen=True)
class Reply:
    """A tool's answer. ``value``: what the text says, for programs."""

    text: str
    value: Mapping[str, Any]
    pictures: tuple[Picture, ...] = ()


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def before(jobs: int) -> str:
    """Return in words how many jobs run before a queued one."""
    return f"{_counted(jobs, 'job')} before it" if jobs else "next to run"


def left(eta: float | None) -> str:
    """Return in words how long a job still takes, to follow where it is; "" if nobody knows."""
    return "" if eta is None else f", about {max(1, round(eta))} s left"


def _state(job: Job) -> str:
    """Return a sentence on where an unfinished job is."""
    if job.status == "queued":
        state = f"is queued, {before(job.position or 0)}"
    elif job.step is None:
        state = "is running"
    else:
        state = f"is running, step {job.step} of {job.steps}"
    paused = "" if job.paused is None else f" ({job.paused})"
    return f"Job {job.id} {state}{left(job.eta)}{paused}. Ask job_status for its images."


def _ending(job: Job) -> str:
    """Return a sentence on what became of a job."""
    if job.failure is not None:
        return f"Job {job.id} failed: {job.failure.message}"
    if job.request is None or not job.images:
        return f"Job {job.id} {'was cancelled' if job.status == 'cancelled' else job.status}."
    seeds = [str(image.seed) for image in job.images if image.seed is not None]
    seed = f", {'seed' if len(seeds) == 1 else 'seeds'} {', '.join(seeds)}" if seeds else ""
    model = f", model {job.model}" if job.model else ""
    made = f"{_counted(len(job.images), 'image')} of {job.request.result}"
    return f"Job {job.id} {job.status}: {made}{seed}{model}."


async def job_reply(service: Service, job: Job, base_url: str) -> Reply:
    """Return a job's state, and its images once it has ended; raise ApiError if their files are gone."""
    value = job_out(job).model_dump(mode="json")
    if job.status in OPEN:
        return Reply(_state(job), value)
    lines = [_ending(job), *(f"Note: {note}" for note in job.notes)]
    for image in job.images:
        flagged = " (blurred: the safety checker found something in it)" if image.flagged else ""
        lines.append(f"Image {image.index}: {base_url}{value['images'][image.index]['url']}{flagged}")
    room = _LARGEST - _AROUND - len(json.dumps(value)) - len(json.dumps(lines))
    pictures: list[Picture] = []
    for image in job.images:
        picture, word = await _picture(service, job, image, room // len(job.images))
        pictures += [picture] if picture is not None else []
        lines += [word] if word is not None else []
    return Reply("\n".join(lines), value, tuple(pictures))


async def _picture(service: Service, job: Job, image: JobImage, room: int) -> tuple[Picture | None, str | None]:
    """Return an image in the format that was asked for, or as a JPEG if only that fits into ``room`` bytes of base64.

    With it comes a sentence if it is not what was asked for; no image if none fits.
    """
    output = None if job.request is None else job.request.output
    asked = PNG if output is None or output.format is None else FORMATS[output.format]

    async def encoded(to: OutputFormat, quality: int | None) -> Picture:
        return Picture(require(await service.image(job, image, to, quality)), to.media_type)

    picture = await encoded(asked, None if output is None or not asked.lossy else output.quality)
    if _fits(picture, room):
        return picture, None
    size = f"{len(picture.data) / 2**20:.1f} MB as {asked.name}"
    smaller = await encoded(JPEG, None)
    if _fits(smaller, room):
        return (
            smaller,
            f"Image {image.index} is {size}: it is shown as {JPEG.name}, the original is at its address.",
        )
    return None, f"Image {image.index} is too large to be shown here ({size}): it is at its address."


def _fits(picture: Picture, room: int) -> bool:
    return len(picture.data) * 4 // 3 + 4 <= room
