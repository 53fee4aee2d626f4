"""The answer with a job's images, as they are read from the disk."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from fastapi import Response
from pydantic import BaseModel, Field

from converter.manifest import Manifest
from server.api.answers import base64_of, json_list, streamed_json
from server.api.errors import require
from server.api.sdapi.call import Call
from server.api.sdapi.echo import Echo
from server.api.sdapi.info import info_of
from server.api.sdapi.names import in_their_words
from server.api.service import Service
from server.jobs.job import Job
from server.pipeline.encoding.formats import FORMATS, PNG
from server.pipeline.request import GenerationRequest
from server.security.headers import JOB_ID

_JSON = "application/json"


class ImagesOut(BaseModel):
    """Finished images."""

    images: list[str] = Field(description="Base64, without the head of a data: URI; empty if `send_images` is false")
    parameters: dict[str, Any] = Field(description="The keys that were sent, without images")
    info: str = Field(description="JSON: prompts, seeds, infotexts, settings; `comments` has what was not used")


@dataclass(frozen=True)
class Submitted:
    """A job, the model that it runs on, and what of its body the answer needs."""

    job_id: str
    manifest: Manifest
    send_images: bool
    echo: Echo


async def answer(call: Call, submitted: Submitted) -> Response:
    """Wait for the images and answer with them. Several are read one by one."""
    try:
        job = require(await call.service.with_files(await call.finished(submitted.job_id)))
    except BaseException:
        submitted.echo.close()
        raise
    headers, parts = {JOB_ID: job.id}, _parts(call.service, job, submitted)
    if submitted.echo.images is None and (len(job.images) == 1 or not submitted.send_images):
        return Response(b"".join([part async for part in parts]), 200, headers, _JSON)
    return await streamed_json(parts, headers)


async def _parts(service: Service, job: Job, submitted: Submitted) -> AsyncIterator[bytes]:
    """Yield an `ImagesOut`."""
    request = job.request
    assert isinstance(request, GenerationRequest)
    output = request.output
    to = PNG if output.format is None else FORMATS[output.format]
    with closing(submitted.echo):
        sent = job.images if submitted.send_images else ()
        images = (f'"{await base64_of(require(await service.image(job, i, to, output.quality)))}"' for i in sent)
        async for part in json_list('{"images": [', images):
            yield part
        yield b', "parameters": '
        async for part in submitted.echo.parts():
            yield part
    notes = [in_their_words(note) for note in job.notes]
    notes += [f"image {i.index} is blurred: the safety checker found something in it" for i in job.images if i.flagged]
    info = info_of(job, request, submitted.manifest, notes)
    yield f', "info": {json.dumps(info)}}}'.encode()
