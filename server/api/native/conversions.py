"""The native API's conversions: download and convert a model; list, watch and cancel conversions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from converter.conversion.agreement import OptionError, check_options
from converter.options import OPTIONS, ConvertOptions, NetworkSource, Size
from server.api.dependencies import Answers
from server.api.forms import json_only
from server.api.native import PREFIX
from server.api.native.errors import error
from server.api.native.model_schemas import (
    ConversionErrorOut,
    ConversionIn,
    ConversionOut,
    ConversionProgressOut,
    ConversionsOut,
)
from server.api.sse import Snapshot, TakeSnapshot, add_event_route
from server.errors import ApiError
from server.models.conversion import Conversion
from server.models.conversion_request import NAME, ConversionRequest, hub_source, usual_name
from server.models.conversions import Conversions, NameTaken, TooManyConversions
from server.pipeline.request import RequestError

#: Included before the models' routes, which would match `conversions` as a model's name.
router = APIRouter(prefix=f"{PREFIX}/models", tags=["models"])

#: No model can have this name: its path belongs to the conversions.
_RESERVED = "conversions"

_NO_CONVERSION: Answers = {404: error("The conversion does not exist"), 422: error("A parameter is not accepted")}


def _conversions(request: Request) -> Conversions:
    conversions: Conversions = request.app.state.conversions
    return conversions


AllConversions = Annotated[Conversions, Depends(_conversions)]


def _source(name: str, conversions: Conversions) -> str:
    """Return the path or hub address of a conversion's source; raise RequestError if it is neither."""
    checkpoints = conversions.checkpoints()
    if name in checkpoints:
        return str(checkpoints[name])
    address = hub_source(name)
    if address is None:
        raise RequestError(
            "source",
            name,
            "owner/name on the Hugging Face hub (also @revision or /file.safetensors), or a file or folder in the data "
            f"folder's checkpoints: {', '.join(checkpoints) or 'none yet'}",
        )
    return address


def _hub_network(field: str, source: str) -> str:
    """Return a network's hub address; raise RequestError for a path, which only the command line accepts."""
    address = hub_source(source)
    if address is None or ".safetensors" in address:
        raise RequestError(field, source, "owner/name on the Hugging Face hub, also @revision or /file.safetensors")
    return address


def _options(body: ConversionIn) -> ConvertOptions:
    values: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        value = getattr(body, name) if option.in_api else None
        if value is None:
            continue
        items = [value] if option.most is None else value
        if option.value is Size:
            items = [(size.width, size.height) for size in items]
        elif option.value is NetworkSource:
            items = [_hub_network(name, source) for source in items]
        values[name] = items[0] if option.most is None else tuple(items)
    options = ConvertOptions(**values)
    try:
        check_options(options)
    except OptionError as wrong:
        value = getattr(options, wrong.option)
        raise ApiError(422, "invalid_field", str(wrong), field=wrong.option, value=value) from wrong
    return options


def _conversion_request(body: ConversionIn, conversions: Conversions) -> ConversionRequest:
    source = _source(body.source, conversions)
    name = usual_name(source) if body.name is None else body.name
    if not NAME.fullmatch(name) or name == _RESERVED:
        accepted = (
            f"letters, digits, dots, dashes and underscores, up to 64, a letter or digit first, and not {_RESERVED}"
        )
        why = "" if body.name is not None else "; set it, because the source's own name is not valid for a model"
        raise RequestError("name", name, f"{accepted}{why}")
    return ConversionRequest(source, name, _options(body))


def conversion_url(conversion_id: str) -> str:
    """Return the path of a conversion."""
    return f"{PREFIX}/models/conversions/{conversion_id}"


def conversion_out(conversion: Conversion) -> ConversionOut:
    """Return the conversion as a response body."""
    progress, error, request = conversion.progress, conversion.error, conversion.request
    progress_out = None
    if progress is not None:
        progress_out = ConversionProgressOut(
            stage=progress.stage,
            item=progress.item,
            done=progress.done,
            total=progress.total,
            fraction=round(progress.done / progress.total, 4) if progress.total else None,
            eta_s=progress.eta_s,
        )
    return ConversionOut(
        id=conversion.id,
        url=conversion_url(conversion.id),
        status=conversion.status,
        model=request.name,
        # Only the last part of a path: clients need not know the server's folders.
        source=Path(request.source).name if request.source.startswith("/") else request.source,
        options=request.options.changed(),
        progress=progress_out,
        error=None if error is None else ConversionErrorOut(code=error[0], message=error[1]),
        created=conversion.created,
        started=conversion.started,
        finished=conversion.finished,
        attempts=conversion.attempts,
    )


_ANSWERS: Answers = {
    200: {"model": ConversionOut, "description": "An identical conversion already exists"},
    202: {"model": ConversionOut, "description": "The new conversion"},
    400: error("The body is not JSON"),
    409: error("Another model has this name"),
    415: error("The body's type is not application/json"),
    422: error("A field is not accepted; the message names it"),
    429: error(
        "Too many conversions are waiting, or the client sent too many requests; Retry-After says when to retry"
    ),
}


@router.post(
    "",
    status_code=202,
    response_model=ConversionOut,
    responses=_ANSWERS,
    dependencies=[Depends(json_only)],
    summary="Download and convert a model",
)
def convert(body: ConversionIn, conversions: AllConversions) -> Response:
    """Answers immediately; the conversion's `url` and its `/events` show its progress.

    Requests with the same source and options are one conversion. If a failed or cancelled conversion is requested again,
    it keeps the networks that it had finished. The server reads only safetensors.
    """
    request = _conversion_request(body, conversions)
    earlier = conversions.get(request.id)
    try:
        conversion = conversions.submit(request)
    except NameTaken as taken:
        raise ApiError(409, "name_taken", str(taken), field="name", value=request.name) from taken
    except TooManyConversions as full:
        raise ApiError(429, "too_many_conversions", str(full), headers={"Retry-After": "60"}) from full
    existed = earlier is not None and earlier.created == conversion.created
    headers = {"Location": conversion_url(conversion.id)}
    return Response(
        conversion_out(conversion).model_dump_json(), 200 if existed else 202, headers, media_type="application/json"
    )


@router.get("/conversions", summary="List conversions")
def all_conversions(conversions: AllConversions) -> ConversionsOut:
    """Returns all conversions, the newest first."""
    return ConversionsOut(conversions=[conversion_out(c) for c in conversions.all()])


def _require_conversion(conversion: Conversion | None, conversion_id: str) -> Conversion:
    if conversion is None:
        raise ApiError(404, "no_such_conversion", f"the conversion {conversion_id[:40]!r} does not exist")
    return conversion


@router.get("/conversions/{conversion_id}", responses=_NO_CONVERSION, summary="Get a conversion")
def conversion(conversion_id: str, conversions: AllConversions) -> ConversionOut:
    """Returns the conversion's status, progress and error."""
    return conversion_out(_require_conversion(conversions.get(conversion_id), conversion_id))


@router.delete("/conversions/{conversion_id}", responses=_NO_CONVERSION, summary="Cancel a conversion")
def cancel(conversion_id: str, conversions: AllConversions) -> ConversionOut:
    """Stops the conversion and keeps its finished networks for the next request; a finished conversion is unchanged."""
    return conversion_out(_require_conversion(conversions.cancel(conversion_id), conversion_id))


async def _snapshots(conversions: AllConversions) -> TakeSnapshot:
    def take(conversion_id: str) -> Snapshot:
        conversion = _require_conversion(conversions.get(conversion_id), conversion_id)
        return Snapshot(conversion_out(conversion), is_open=conversion.open)

    return take


_EVENTS = (
    "`state` events contain the conversion as `GET /api/v1/models/conversions/{id}` returns it; `progress` events contain "
    "its `stage`, `item`, `done` and `total` bytes, and `eta_s` or null. The server sends comments while nothing happens."
)
add_event_route(
    router, "/conversions/{conversion_id}/events", "conversion", _snapshots, about=_EVENTS, absent=_NO_CONVERSION
)
