"""The fields of OpenAI's calls, its own and ours, and what they ask for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema

from server.api.body import Body
from server.api.openai.names import in_our_names, named_as_sent, put_size
from server.api.request_body import Submission
from server.api.upload import Upload, checked
from server.errors import ApiError, listed, quoted
from server.pipeline.encoding.formats import FORMATS, PNG, OutputFormat
from server.pipeline.limits import OneOf, Whole, Within
from server.pipeline.request import FIELDS, TASKS, RequestError, Task
from server.pipeline.request.output import FormatName, Output
from server.pipeline.request.sampling import SIDE

#: Fields that an empty text is a value of.
_TEXTS = ("prompt", "negative_prompt")
_WORDS = ("auto", "low", "medium", "high", "standard", "hd")
_NUMBERS = Within(1, 100)


def _number_or_word(value: Any) -> int | str:
    """Return a quality: our number, which a form has as text, or OpenAI's word."""
    if isinstance(value, str) and value in _WORDS:
        return value
    number = int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,3}", value) else value
    if isinstance(number, int) and not isinstance(number, bool) and _NUMBERS.accepts(number):
        return number
    raise ValueError(f"{_NUMBERS}, or {', '.join(_WORDS)}")


_Quality = Annotated[
    Any,
    PlainValidator(_number_or_word),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 100}, {"enum": list(_WORDS)}]}),
]


class OpenAIFields(Submission):
    """The fields that OpenAI's API has beside ours."""

    response_format: Annotated[str, OneOf(("b64_json", "url"))] | None = Field(
        None, description="Whether images come as base64 (the default) or as addresses on this server"
    )
    size: str | None = Field(
        None, max_length=20, description=f"`auto` (the model's own), or WIDTHxHEIGHT, {SIDE} pixels each"
    )
    output_format: FormatName | None = Field(None, description="The format of the images; left out: png")
    output_compression: Annotated[Whole, Within(0, 100)] | None = Field(
        None, description="The quality of webp and jpeg, as in OpenAI's API"
    )
    quality: _Quality | None = Field(None, description="A number: as output_compression. OpenAI's words have no effect")
    background: Annotated[str, OneOf(("auto", "opaque", "transparent"))] | None = Field(
        None, description="Images are always opaque"
    )
    stream: bool | None = Field(None, description="Answer with Server-Sent Events")
    partial_images: Annotated[Whole, Within(0, 3)] | None = Field(
        None, description="Previews to send of each image while it is made, with stream"
    )
    style: str | None = Field(None, max_length=200, description="Has no effect")
    moderation: str | None = Field(None, max_length=200, description="Has no effect")
    input_fidelity: str | None = Field(None, max_length=200, description="Has no effect; `strength` has")
    user: str | None = Field(None, max_length=1000, description="Has no effect")


#: Of our fields, those that OpenAI's fields stand for.
_REPLACED = frozenset(Output.model_fields)


def _body(name: str, task: Task, about: str) -> Body:
    fields = [each for each in task.fields if each.name not in _REPLACED]
    return Body(name, about, fields, lambda each: each.name in task.needs, OpenAIFields)


@dataclass(frozen=True)
class Call:
    """A call of OpenAI's API. ``event`` is the beginning of the names of its events."""

    path: str
    task: str
    body: Body
    event: str


GENERATION = Call(
    "/images/generations",
    "txt2img",
    _body("ImageGeneration", TASKS["txt2img"], "A request to make images from a prompt."),
    "image_generation",
)
EDIT = Call(
    "/images/edits",
    "img2img",
    # It has the fields of all tasks; a mask makes it inpainting, an extension outpainting.
    _body("ImageEdit", TASKS["outpaint"], "A request to change an image."),
    "image_edit",
)
VARIATION = Call(
    "/images/variations",
    "variations",
    _body("ImageVariation", TASKS["variations"], "A request to make images like one that is sent."),
    "image_generation",
)
CALLS = (GENERATION, EDIT, VARIATION)


@dataclass(frozen=True)
class Asked:
    """A client's request.

    upload: our fields and the attachments.
    sent: the client's names of our fields, where they differ.
    notes: what has no effect.
    to: the format of the images; by_url: whether they are answered as addresses.
    stream: whether events are wanted; partial_images: previews of each image among them.
    """

    upload: Upload
    sent: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    to: OutputFormat = PNG
    by_url: bool = False
    stream: bool = False
    partial_images: int = 0

    def with_attachments(self, attachments: Mapping[str, bytes]) -> Asked:
        """Return the same with other attachments."""
        return replace(self, upload=replace(self.upload, attachments=attachments))

    def named_as_sent(self) -> AbstractContextManager[None]:
        """Name a field as the client did in errors that the block raises."""
        return named_as_sent(self.sent)


def _shown(name: str) -> str:
    """Return a field's name for a list; in quotes if nobody would see where it begins and ends."""
    shown = quoted(name)
    return shown[1:-1] if name and name == name.strip() else shown


def _unknown(named: dict[str, Any], body: Body) -> tuple[str, ...]:
    """Take out the values that the body has no field for, and return notes on them; raise ApiError for another call's."""
    ours = {each.name for each in FIELDS} - _REPLACED
    unknown = [name for name in named if name not in body.model.model_fields]
    for name in unknown:
        if name in ours:
            others = ", ".join(f"/v1{call.path}" for call in CALLS if name in call.body.model.model_fields)
            accepted = f"by {others}"
            message = f"{name} is not a field of this call; accepted: {accepted}"
            raise ApiError(422, "unknown_field", message, field=name, value=named[name], accepted=accepted)
        del named[name]
    if not unknown:
        return ()
    names = listed([*map(_shown, unknown)], most=10)
    return (f"fields without effect, since they are not known here: {names}",)


def _without_effect(own: Mapping[str, Any]) -> Iterator[str]:
    if own["background"] == "transparent":
        yield "background has no effect: images are opaque"
    if isinstance(own["quality"], str) and own["quality"] not in ("auto", "standard"):
        yield "quality has no effect; steps says how much work an image is"
    for name in ("style", "moderation", "input_fidelity"):
        if own[name] not in (None, "", "auto"):
            yield f"{name} has no effect"
    if own["partial_images"] and not own["stream"]:
        yield "partial_images has no effect without stream"


def _quality(own: Mapping[str, Any], to: OutputFormat) -> int | None:
    """Return the quality of the images, 1 to 100; raise RequestError if the format has none."""
    numbers: dict[str, int] = {
        name: own[name] for name in ("output_compression", "quality") if isinstance(own[name], int)
    }
    name, quality = next(iter(numbers.items()), ("", None))
    if any(number != quality for number in numbers.values()):
        raise RequestError("quality", own["quality"], f"{quality}, or leave it out: output_compression means the same")
    # Clients send 100 with every format.
    if quality is None or (quality == 100 and not to.lossy):
        return None
    if to.lossy:
        return max(1, quality)
    raise RequestError(name, quality, f"100, or leave it out, for {to.name}; other values with webp and jpeg")


def asked(values: Mapping[str, Any], call: Call, placed: Mapping[str, str]) -> Asked:
    """Return what a call's values ask for: those of JSON, or of a form with its files; null and an empty text are
    as if left out, but for prompts.

    ``placed`` has the places from which values were put into our fields, by these.
    Raises ApiError and RequestError for the first that is wrong, by the client's name of it.
    """
    named, sent = in_our_names(
        {n: value for n, value in values.items() if value is not None and (value != "" or n in _TEXTS)}
    )
    sent |= placed
    notes = _unknown(named, call.body)
    put_size(named, sent)
    with named_as_sent(sent):
        upload = checked(named, call.body)
    own = {name: upload.fields[name] for name in OpenAIFields.model_fields if name not in Submission.model_fields}
    fields = {name: value for name, value in upload.fields.items() if name not in own}
    to = PNG if own["output_format"] is None else FORMATS[own["output_format"]]
    fields |= {"format": own["output_format"], "quality": _quality(own, to)}
    return Asked(
        Upload(fields, upload.attachments),
        sent,
        (*notes, *_without_effect(own)),
        to,
        by_url=own["response_format"] == "url",
        stream=bool(own["stream"]),
        partial_images=own["partial_images"] or 0,
    )
