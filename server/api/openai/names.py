"""The names that clients have for our fields: in requests, and in the errors about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from server.api.errors import from_request_error
from server.errors import ApiError, quoted
from server.pipeline.request import RequestError
from server.pipeline.request.sampling import SIDE
from server.pipeline.schedulers import UnknownScheduler, find_scheduler, find_sigmas

#: Names that clients have for our fields, and ours.
SYNONYMS = {
    "num_inference_steps": "steps",
    "step": "steps",
    "cfg_scale": "guidance_scale",
    "sampler": "scheduler",
    "sampler_name": "scheduler",
    "format": "output_format",
}
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.IGNORECASE)


@contextmanager
def named_as_sent(sent: Mapping[str, str]) -> Iterator[None]:
    """Name a field as the client did, by ``sent``, in errors that the block raises."""
    try:
        yield
    except (ApiError, RequestError) as raised:
        error = from_request_error(raised) if isinstance(raised, RequestError) else raised
        if error.field is None or error.field not in sent:
            raise
        name = sent[error.field]
        raise ApiError(
            error.status,
            error.code,
            f"{name}: {error.message}",
            field=name,
            value=error.value,
            accepted=error.accepted,
            headers=error.headers,
        ) from raised


def _is_known(name: object, find: Callable[[str], object]) -> bool:
    """Return whether a name is one of the schedulers or sigmas that ``find`` knows."""
    try:
        return isinstance(name, str) and bool(find(name))
    except UnknownScheduler:
        return False


def _means_sigmas(scheduler: object, beside_sampler: bool) -> bool:
    """Return whether a client's scheduler is our sigmas: A1111 and stable-diffusion.cpp call our scheduler "sampler"."""
    if _is_known(scheduler, find_sigmas):
        return beside_sampler or not _is_known(scheduler, find_scheduler)
    return beside_sampler and not _is_known(scheduler, find_scheduler)


def in_our_names(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return values by our fields' names, and the client's names where they differ; raise ApiError for two that differ."""
    named: dict[str, Any] = {}
    sent: dict[str, str] = {}
    beside_sampler = not values.keys().isdisjoint(("sampler", "sampler_name"))
    for name, value in values.items():
        ours = SYNONYMS.get(name, name)
        if name == "scheduler" and _means_sigmas(value, beside_sampler):
            ours = "sigmas"
        if ours in named and str(named[ours]) != str(value):
            message = f"{sent.get(ours, ours)} and {name} mean the same and differ; accepted: one of them"
            raise ApiError(422, "invalid_field", message, field=name, value=value, accepted="one of them")
        named[ours] = value
        if ours != name:
            sent[ours] = name
    return named, sent


def put_size(named: dict[str, Any], sent: dict[str, str]) -> None:
    """Put width and height in the place of a size; raise RequestError for a text that is not a size."""
    size = named.pop("size", None)
    if size is None or (isinstance(size, str) and size.strip().lower() == "auto"):
        return
    found = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if found is None:
        raise RequestError("size", size, f"auto, or WIDTHxHEIGHT such as 512x512, {SIDE} pixels each")
    for name, side in zip(("width", "height"), map(int, found.groups()), strict=True):
        if named.get(name) not in (None, side, str(side)):
            raise RequestError("size", size, f"a size that agrees with {name}, {quoted(named[name])}; or leave one out")
        named[name], sent[name] = side, "size"
