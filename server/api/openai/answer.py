"""Answers with images as OpenAI's API does: all at once, or as events while they are made."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastapi.concurrency import run_in_threadpool
from fastapi.sse import format_sse_event
from PIL import Image
from pydantic import BaseModel, Field

from server.api.answers import base64_of, json_list, notes_headers
from server.api.errors import as_api_error, require
from server.api.native.jobs import job_url
from server.api.openai.errors import error_body, new_request_id
from server.api.openai.fields import Asked, Call
from server.api.service import Service
from server.errors import ApiError
from server.events import OPEN, Subscription
from server.faults import FAULTS
from server.jobs.job import Job, JobImage
from server.jobs.ledger import Accepted
from server.security.headers import JOB_ID

#: Seconds without an event after which a comment is sent, so that nothing between server and client gives up.
_QUIET_SECONDS = 15.0


class InputTokens(BaseModel):
    """What OpenAI's API counts of a request."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """What OpenAI's API charges by; here nothing is counted."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_tokens_details: InputTokens = InputTokens()


class OpenAIImage(BaseModel):
    """An image; ``b64_json`` or ``url``, as the request asks."""

    b64_json: str | None = None
    url: str | None = None
    seed: int | None = Field(None, description="The seed that makes this image again")
    flagged: Literal[True] | None = Field(None, description="The safety checker found something in it: it is blurred")


class ImagesResponse(BaseModel):
    """The images of a job."""

    created: int = Field(description="Seconds since 1970")
    background: str = "opaque"
    output_format: str
    quality: str = "auto"
    size: str
    job: str = Field(description="The job's id: /api/v1/jobs/ID shows it")
    notes: list[str] = Field(description="What was done that the request did not ask for, and what of it had no effect")
    usage: Usage = Usage()
    data: list[OpenAIImage]


@dataclass(frozen=True)
class Answering:
    """An accepted request on its way to its answer. ``base`` is the server's address, as the client wrote it."""

    service: Service
    call: Call
    asked: Asked
    accepted: Accepted
    quality: int | None
    base: str

    def headers(self, job: Job) -> dict[str, str]:
        """Return the answer's headers."""
        repeat = {"Idempotent-Replayed": "true"} if self.accepted.is_repeat else {}
        safety = {"X-Anemone-Safety": "blurred"} if any(image.flagged for image in job.images) else {}
        return {"x-request-id": new_request_id(), JOB_ID: job.id, **repeat, **safety, **notes_headers(job.notes)}

    def about(self, job: Job) -> dict[str, Any]:
        """Return what an answer or an event says about the job's images."""
        size = "auto" if job.request is None else str(job.request.result)
        return {"background": "opaque", "output_format": self.asked.to.name, "quality": "auto", "size": size}

    async def image(self, job: Job, image: JobImage) -> OpenAIImage:
        """Return an image as the request asks for it; raise ApiError if its file is gone."""
        if self.asked.by_url:
            quality = "" if self.quality is None else f"&quality={self.quality}"
            url = f"{self.base}{job_url(job.id)}/images/{image.index}?format={self.asked.to.name}{quality}"
            return OpenAIImage(url=url, seed=image.seed, flagged=image.flagged or None)
        data = require(await self.service.image(job, image, self.asked.to, self.quality))
        return OpenAIImage(b64_json=await base64_of(data), seed=image.seed, flagged=image.flagged or None)

    async def body(self, job: Job) -> AsyncIterator[bytes]:
        """Yield an `ImagesResponse` in parts, an image in each.

        Yields first when the first image has been read, so that its absence is still an error of the request.
        """
        head = ImagesResponse(
            created=int(job.created), **self.about(job), job=job.id, notes=list(job.notes), data=[]
        ).model_dump_json()
        images = ((await self.image(job, image)).model_dump_json(exclude_none=True) for image in job.images)
        async for part in json_list(head.removesuffix("]}"), images):
            yield part
        yield b"}"

    async def events(self, events: Subscription) -> AsyncIterator[bytes]:
        """Yield the events of a job: previews while its images are made, and each image when it is finished."""
        job_id, sent, previews = self.accepted.job_id, 0, _Previews(self.asked.partial_images)
        try:
            job = require(self.service.job(job_id))
            while True:
                for image in job.images[sent:]:
                    yield await self._completed(job, image)
                    sent += 1
                if job.status not in OPEN:
                    break
                try:
                    async with asyncio.timeout(_QUIET_SECONDS):
                        event = await anext(events, None)
                except TimeoutError:
                    yield b": waiting\n\n"
                    continue
                if event is None:
                    break
                if event.kind != "progress":
                    job = require(self.service.job(job_id))
                elif (number := previews.due(event.data)) is not None:
                    yield await self._partial(job, event.data["preview"], number, event.data["image"])
            job = require(await self.service.result(job_id))
            for image in job.images[sent:]:
                yield await self._completed(job, image)
        except (ApiError, *FAULTS) as error:
            known = as_api_error(error)
            if known is None:
                raise
            yield _event("error", error_body(known))
        finally:
            events.close()
        yield b"data: [DONE]\n\n"

    async def _completed(self, job: Job, image: JobImage) -> bytes:
        made = await self.image(job, image)
        kind = f"{self.call.event}.completed"
        created = int(job.created)
        about = {"type": kind, "created_at": created, **self.about(job), "image_index": image.index}
        about |= {"job": job.id, "notes": job.notes}
        return _event(kind, {**about, "usage": Usage().model_dump(), **made.model_dump(exclude_none=True)})

    async def _partial(self, job: Job, preview: str, number: int, index: int) -> bytes:
        kind = f"{self.call.event}.partial_image"
        name = self.asked.to.name
        shown = preview if name == "jpeg" else await base64_of(await run_in_threadpool(_in_format, preview, name))
        about = {"type": kind, "created_at": int(job.created), **self.about(job), "image_index": index}
        return _event(kind, {**about, "partial_image_index": number, "b64_json": shown})


class _Previews:
    """Chooses the previews to send of each image: up to ``wanted``, evenly over its steps."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._sent: dict[int, int] = {}

    def due(self, progress: Mapping[str, Any]) -> int | None:
        """Return the number of a progress event's preview if it is to be sent, or else None."""
        sent = self._sent.get(progress["image"], 0)
        reached = progress["step"] * (self._wanted + 1) // progress["steps"]
        if progress["preview"] is None or sent >= self._wanted or reached <= sent:
            return None
        self._sent[progress["image"]] = sent + 1
        return sent


def _in_format(preview: str, name: str) -> bytes:
    """Return a preview, which is a JPEG in base64, in the format of the images."""
    file = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(preview)), formats=["JPEG"]).save(file, name)
    return file.getvalue()


def _event(kind: str, data: Mapping[str, Any]) -> bytes:
    return format_sse_event(event=kind, data_str=json.dumps(data))
