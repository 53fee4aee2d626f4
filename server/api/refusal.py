"""Why the service cannot do something; each dialect answers it in its own form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from server.faults import Fault
from server.pipeline.decoding.file import ImageError
from server.pipeline.fields import place_of
from server.pipeline.request import FIELDS

Reason = Literal[
    "unknown_model",
    "not_ready",
    "model_failed",
    "not_allowed",
    "queue_full",
    "key_reused",
    "invalid_image",
    "no_such_job",
    "no_such_image",
    "expired",
    "job_open",
    "cancelled",
    "not_now",
    "disk_full",
    "unsafe_image",
    "addon_changed",
    "addon_misfit",
    "failed",
]


@dataclass(frozen=True)
class Refusal:
    """The reason why the service cannot do something.

    code: a word for programs; for a failed job, more exact than ``reason``.
    field, value, accepted: the request's wrong field, if any.
    retry_after: seconds after which the same request may succeed; None if unknown.
    """

    reason: Reason
    code: str
    message: str
    field: str | None = None
    value: Any = None
    accepted: str | None = None
    retry_after: int | None = None


def bad_image(name: str, bad: ImageError) -> Refusal:
    """Return the refusal of an attachment that is no image that can be used."""
    place = place_of(FIELDS, name)
    return Refusal("invalid_image", "invalid_image", f"{place}: {bad}", field=place, accepted=bad.accepted)


def later(job_id: str, fault: Fault) -> Refusal:
    """Return the refusal to wait for a job that runs once a fault has passed."""
    return replace(during(fault), message=f"{fault.message}; {kept_text(job_id)}")


def during(fault: Fault) -> Refusal:
    """Return the refusal of what cannot be done until a fault has passed."""
    reason: Reason = "disk_full" if fault.code == "disk_full" else "not_now"
    return Refusal(reason, fault.code, fault.message, retry_after=fault.retry_after)


def kept_text(job_id: str) -> str:
    """Return that a job is not lost."""
    return f"the server keeps job {job_id} and runs it when it can"
