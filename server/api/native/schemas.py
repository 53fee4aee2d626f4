"""The native API's bodies and answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from server.events import Status
from server.jobs.job import PRIORITIES, Priority
from server.pipeline.fields import Attachment, RequestField
from server.pipeline.request import FIELDS, asked_fields


class _Submission(BaseModel):
    """Fields of a submission besides those of the request."""

    model_config = ConfigDict(extra="forbid")

    priority: Priority = Field(
        "normal",
        description=f"{', '.join(PRIORITIES)}: a job goes before all of lower priority; clients take turns within one",
    )


class _WithExample(_Submission):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "a red circle on a blue background", "seed": 7}]}
    )


#: Fields that come as files of a form, or as base64 in JSON.
ATTACHMENTS = tuple(field.name for field in FIELDS if field.find(Attachment))


def _schema(
    name: str, about: str, fields: Iterable[RequestField], base: type[_Submission] = _Submission, **more: Any
) -> type[_Submission]:
    """Return a model of these fields of a request, flat, all but the prompt with the model's default."""
    return create_model(name, __base__=base, __doc__=about, **asked_fields(list(fields)), **more)


if TYPE_CHECKING:
    Txt2Img = _Submission
    Img2Img = _Submission
    Img2ImgJson = _Submission
else:
    Txt2Img = _schema(
        "Txt2Img",
        "An image from text. Fields that are left out take the model's defaults.",
        [field for field in FIELDS if field.part != "source"],
        _WithExample,
    )
    Img2Img = _schema(
        "Img2Img", "An image from an image and text.", [field for field in FIELDS if field.name not in ATTACHMENTS]
    )
    Img2ImgJson = _schema(
        "Img2ImgJson",
        "img2img as JSON.",
        [field for field in FIELDS if field.name not in ATTACHMENTS],
        **{
            field.name: (
                str,
                Field(description=f"{field.info.description}: PNG, JPEG or WebP as base64, a data: URI prefix allowed"),
            )
            for field in FIELDS
            if field.name in ATTACHMENTS
        },
    )


class JobImageOut(BaseModel):
    """A finished image."""

    index: int = Field(description="From 0")
    seed: int
    url: str = Field(description="Where the PNG is")


class JobErrorOut(BaseModel):
    """Why a job failed."""

    code: str
    message: str


class ProgressOut(BaseModel):
    """A running job's progress."""

    image: int = Field(description="The image being made, from 0")
    step: int = Field(description="Steps done of this image")
    steps: int = Field(description="Steps of this image in all")
    fraction: float = Field(description="Of the whole job, 0 to 1")


class TimingsOut(BaseModel):
    """A job's times in seconds so far."""

    queued: float = Field(description="From acceptance to its last start; to its end, or to now, if it never started")
    running: float | None = Field(description="From its last start to its end, or to now")
    step: float | None = Field(description="A denoising step, on average")


class JobOut(BaseModel):
    """A job's present state."""

    id: str
    status: Status
    model: str
    priority: Priority
    url: str
    request: dict[str, Any] = Field(description="The request with defaults filled in and its seed drawn")
    position: int | None = Field(description="Jobs that run before it; null unless queued")
    eta: float | None = Field(
        description="Seconds until it ends, estimated from earlier jobs; null if there were none, or if it has ended"
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
    next: int | None = Field(description="`before` of the following page; null on the last page")


class SizeOut(BaseModel):
    """An image size in pixels."""

    width: int
    height: int
