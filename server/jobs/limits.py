"""What the queue keeps to."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.jobs.store import Retention


@dataclass(frozen=True)
class Limits:
    """What the queue keeps to.

    max_queue: jobs that may wait at once.
    idle_unload_seconds: how long the worker may hold a model without a job; None for ever.
    retention: how long what is over is kept.
    """

    max_queue: int = 100
    idle_unload_seconds: float | None = None
    retention: Retention = field(default_factory=Retention)
