"""Deletes finished jobs by age and by total image size."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.jobs.store.jobs import JobStore

log = logging.getLogger("anemone.store")

_DAY = 86_400.0
#: How long requests for an expired job are answered with 410; afterwards with 404.
_TOMBSTONE_DAYS = 365
_AT_ONCE = 50


@dataclass(frozen=True)
class Retention:
    """How long ended jobs are kept: ``days`` after their end, and while all images take at most ``gigabytes`` (10^9 bytes)."""

    days: float = 30
    gigabytes: float = 10

    @property
    def bytes(self) -> float:
        """The bytes that images may take on disk."""
        return self.gigabytes * 1e9

    def apply(self, store: JobStore, clock: Callable[[], float] = time.time) -> int:
        """Delete jobs that are too old, and, while images take too much space, those that ended first; return their number.

        Open jobs are never deleted.
        """
        now, expired = clock(), 0
        while (job_ids := store.finished_before(now - self.days * _DAY, _AT_ONCE)) and (count := store.expire(job_ids)):
            expired += count
        while store.images.bytes > self.bytes and (job_ids := store.finished_before(None, 1)) and store.expire(job_ids):
            expired += 1
        store.forget_expired(now - _TOMBSTONE_DAYS * _DAY)
        if expired:
            log.info("%d jobs have expired", expired)
        return expired
