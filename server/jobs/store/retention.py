"""Deletes finished jobs by age and by total image size."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.jobs.store.jobs import JobStore

log = logging.getLogger("anemone.store")

_DAY = 86_400.0
#: How long an expired job is answered with 410; afterwards with 404.
_TOMBSTONE_DAYS = 365
_AT_ONCE = 50


@dataclass(frozen=True)
class Retention:
    """Jobs are kept for so many ``days`` after their end, and images up to so many ``gigabytes`` (10^9 bytes)."""

    days: float = 30
    gigabytes: float = 10

    @property
    def bytes(self) -> float:
        """Bytes that images may take."""
        return self.gigabytes * 1e9

    def apply(self, store: JobStore, clock: Callable[[], float] = time.time) -> int:
        """Delete jobs that are too old, and the oldest while images take too much; returns how many.

        Jobs that have not ended are never deleted.
        """
        now, gone = clock(), 0
        while job_ids := store.finished_before(now - self.days * _DAY, _AT_ONCE):
            store.expire(job_ids)
            gone += len(job_ids)
        while store.images.bytes > self.bytes and (job_ids := store.finished_before(None, 1)):
            store.expire(job_ids)
            gone += 1
        store.forget_expired(now - _TOMBSTONE_DAYS * _DAY)
        if gone:
            log.info("%d jobs have expired", gone)
        return gone
