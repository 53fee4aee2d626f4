"""The native API's request and response bodies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, create_model

from server.api.image_json import EncodedImage, decode_base64
from server.api.request_body import RequestBody
from server.events import Status
from server.jobs.job import PRIORITIES, Priority
from server.pipeline.fields import Attachment, RequestField, asked_fields
from server.pipeline.request import FIELDS


class _Submission(RequestBody):
    """The fields of a submission that are not part of the request."""

    priority: Priority | None = Field(
        None,
        description=f"{', '.join(PRIORITIES)}: a job runs before all jobs of lower priority; clients take turns within a priority. "
        "Only programs on the server's own machine may use high",
    )


class _WithExample(_Submission):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "a red circle on a blue background", "seed": 7}]}
    )


def _decoded(value: Any) -> bytes:
    try:
        if isinstance(value, str):
            return decode_base64(value)
        if isinstance(value, EncodedImage) and value.data is not None:
            return value.data
        error = value.error if isinstance(value, EncodedImage) else "it is not a text"
    except ValueError as invalid:
        error = str(invalid)
    raise ValueError(f"base64 of a PNG, JPEG or WebP image ({error})")


_Image = Annotated[bytes, PlainValidator(_decoded), WithJsonSchema({"type": "string"})]

_FIELDS = tuple(f for f in FIELDS if f.part not in ("mask", "outpaint", "palette", "adapter") and f.item is None)
#: Fields that are files in a form, or base64 in JSON.
ATTACHMENTS = tuple(field.name for field in _FIELDS if field.find(Attachment))


def _schema(
    name: str, about: str, fields: Iterable[RequestField], base: type[_Submission] = _Submission, **more: Any
) -> type[_Submission]:
    """Return a flat schema of these request fields; all but the prompt default to the model's own value."""
    return create_model(name, __base__=base, __doc__=about, **asked_fields(fields, RequestBody), **more)


if TYPE_CHECKING:
    Txt2Img = _Submission
    Img2Img = _Submission
    Img2ImgJson = _Submission
else:
    Txt2Img = _schema(
        "Txt2Img",
        "An image from text. Omitted fields take the model's defaults.",
        [field for field in _FIELDS if field.part != "source"],
        _WithExample,
    )
    Img2Img = _schema(
        "Img2Img", "An image from an image and text.", [field for field in _FIELDS if field.name not in ATTACHMENTS]
    )
    Img2ImgJson = _schema(
        "Img2ImgJson",
        "img2img as JSON.",
        [field for field in _FIELDS if field.name not in ATTACHMENTS],
        **{
            field.name: (
                _Image,
                Field(description=f"{field.info.description}: PNG, JPEG or WebP as base64, a data: URI prefix allowed"),
            )
            for field in _FIELDS
            if field.name in ATTACHMENTS
        },
    )


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


class TimingsOut(BaseModel):
    """A job's times in seconds so far."""

    queued: float = Field(description="From acceptance to the last start; without a start, to the end or to now")
    running: float | None = Field(description="From the last start to the end, or to now")
    step: float | None = Field(description="The average denoising step")


class JobOut(BaseModel):
    """A job's current state."""

    id: str
    status: Status
    model: str
    priority: Priority
    url: str
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
    notes: list[str] = Field(
        description="What was done to the inputs or the images that the request did not ask for, in sentences"
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


class SizeOut(BaseModel):
    """An image size in pixels."""

    width: int
    height: int
