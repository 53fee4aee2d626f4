"""Deletes finished jobs by age and by the total size of files."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.jobs.store.calendar import DAY
from server.jobs.store.jobs import JobStore

log = logging.getLogger("anemone.store")

#: How long requests for an expired job are answered with 410; afterwards with 404.
_TOMBSTONE_DAYS = 365
#: Expired jobs that are remembered, 10 MB of them.
_TOMBSTONES = 100_000
_AT_ONCE = 50


@dataclass(frozen=True)
class Retention:
    """How long ended jobs are kept: ``days`` after their end, and while everything takes at most ``gigabytes`` (10^9 bytes)."""

    days: float = 30
    gigabytes: float = 10

    @property
    def bytes(self) -> float:
        """The bytes that images, attachments and the database may take on disk."""
        return self.gigabytes * 1e9

    def apply(self, store: JobStore, clock: Callable[[], float] = time.time) -> int:
        """Delete jobs that are too old, and make room; return how many jobs were deleted.

        Open jobs are never deleted. Ages are counted by the store's calendar, which this call moves: to be called once an
        hour.
        """
        today, old = store.calendar.follow(clock()), 0
        while (job_ids := store.finished_before(today - self.days * DAY, _AT_ONCE)) and (
            count := store.expire(job_ids)
        ):
            old += count
        store.forget_expired(today - _TOMBSTONE_DAYS * DAY, _TOMBSTONES)
        return self._deleted(store, old, self._excess(store))

    def make_room(self, store: JobStore) -> int:
        """While everything takes too much space, delete the jobs that ended first; return how many."""
        return self._deleted(store, 0, self._excess(store))

    def _excess(self, store: JobStore) -> int:
        count = 0
        while store.stored_bytes > self.bytes and (job_ids := store.finished_before(None, 1)) and store.expire(job_ids):
            count += 1
        return count

    def _deleted(self, store: JobStore, old: int, excess: int) -> int:
        if old or excess:
            store.shrink()
            log.info(
                "jobs have expired: %d ended more than %g days ago, %d to keep everything within %g GB",
                old,
                self.days,
                excess,
                self.gigabytes,
            )
        return old + excess
