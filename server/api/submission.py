"""A request on its way to becoming a job: bound to a model, with its files, its sender and what tells a repetition."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi.concurrency import run_in_threadpool

from converter.manifest import Manifest
from server.jobs.job import Priority
from server.pipeline.request import GenerationRequest, RequestError

#: Characters of a client's Idempotency-Key.
LONGEST_KEY = 200
#: Notes on how a request was understood. Each is stored for itself: 5000 of them kept the server from answering for 6 s.
MOST_NOTES = 50


@dataclass(frozen=True)
class BoundModel:
    """The installed model that a request will run on."""

    name: str
    manifest: Manifest


@dataclass(frozen=True)
class BoundRequest:
    """A request with all its values, and the model that it will run on."""

    model: BoundModel
    request: GenerationRequest

    def with_notes(self, notes: Iterable[str]) -> BoundRequest:
        """Return the request with what a dialect tells about how it was understood, before its other notes.

        Of many, the first are told and the others counted.
        """
        told = tuple(dict.fromkeys(notes))
        if len(told) > MOST_NOTES:
            told = (*told[:MOST_NOTES], f"and {len(told) - MOST_NOTES} more notes like these")
        request = self.request.model_copy(update={"notes": (*told, *self.request.notes)})
        return replace(self, request=request)


@dataclass(frozen=True)
class SubmitOptions:
    """How a client submits a request.

    client: the sender; clients take turns, and keys and fingerprints are compared within one client.
    attachments: the request's files, by the names that it uses.
    key: the client's Idempotency-Key: a request with the same key and fingerprint gets the same job.
    fingerprint: a hash of what the client sent; see `fingerprint_of`.
    is_retry: the client marks the request as a retry, without a key.

    Raises RequestError for a key that is not 1 to 200 visible ASCII characters.
    """

    client: str
    priority: Priority = "normal"
    attachments: Mapping[str, bytes] = field(default_factory=dict)
    key: str | None = None
    fingerprint: str | None = None
    is_retry: bool = False

    def __post_init__(self) -> None:
        key = self.key
        if key is not None and not (0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
            raise RequestError("Idempotency-Key", key, f"1 to {LONGEST_KEY} visible ASCII characters")


#: Fields of release 0.1.0, whose stored fingerprints hold a null for each that was not sent.
_HASHED_AS_NULL = {
    "prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "scheduler", "seed", "n", "seeds",
    "variation_seed", "variation_strength", "rng", "strength", "model", "priority",
}  # fmt: skip


def fingerprint_of(path: str, fields: Mapping[str, Any], attachments: Mapping[str, bytes]) -> str:
    """Return a hash of a request as the client sent it; a repeated request has the same hash.

    ``fields`` must be the fields that the client sent: with a drawn seed, every request would have a different hash.
    """
    names = sorted(attachments)
    # Ignore later versions' fields that were not sent, so that a retry across an update is recognized.
    fields = {name: _sent(value) for name, value in fields.items() if value is not None or name in _HASHED_AS_NULL}
    # Stored jobs of earlier versions must still match: those hashed their only attachment without its name.
    hashed = [path, fields] if names in ([], ["image"]) else [path, fields, names]
    digests = [hashlib.sha256(attachments[name]).digest() for name in names] or [hashlib.sha256().digest()]
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode() + b"".join(digests)).hexdigest()


def _sent(value: Any) -> Any:
    """Return a value without the nulls in its lists' items."""
    if isinstance(value, list | tuple):
        return [_sent(item) for item in value]
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


async def hashed(path: str, fields: Mapping[str, Any], attachments: Mapping[str, bytes]) -> str:
    """Return `fingerprint_of` a request, without holding up the event loop."""
    if not attachments:
        return fingerprint_of(path, fields, attachments)
    # Hashing 48 MB takes 0.03 s, and 0.1 s on CPUs without instructions for it.
    return await run_in_threadpool(fingerprint_of, path, fields, attachments)
