"""The store's own date, by which jobs expire: a wrong clock must not delete them all."""

from __future__ import annotations

import logging
import time

from server.jobs.store.database import Database

log = logging.getLogger("anemone.store")

DAY = 86_400.0
#: 1 January 2026; a clock that says less has lost its time.
_EARLIEST = 1_767_225_600.0


class Calendar:
    """A date that never goes back, and moves towards the clock's by a day at most each time that it follows it.

    A clock that is wrong for an hour costs at most the jobs that would have expired within a day; after a long pause the
    date catches up by a day an hour. Times are seconds since 1970.
    """

    def __init__(self, database: Database) -> None:
        self._database, self._since, self._is_told = database, time.monotonic(), False
        now = time.time()
        # A database of an earlier version has no date yet: its newest job was the last to see a clock.
        ((date,),) = database.rows(
            "SELECT coalesce((SELECT max(date) FROM calendar), (SELECT max(finished) FROM jobs WHERE finished <= ?), ?)",
            (now, now),
        )
        self._date = max(float(date), _EARLIEST)

    def follow(self, clock: float) -> float:
        """Move the date towards the clock's time, store it and return it."""
        date = max(self._date, min(clock, self._date + DAY))
        with self._database.transaction() as db:
            db.execute("DELETE FROM calendar")
            db.execute("INSERT INTO calendar VALUES (?)", (date,))
        # Once it is stored: a locked database is tried again and again.
        self._date, self._since = date, time.monotonic()
        behind = (clock - self._date) / DAY
        if behind > 0 and not self._is_told:
            log.warning(
                "the clock is %.1f days ahead of the last time that jobs expired; in case it is wrong, they expire a day at "
                "a time, once an hour, until that is made up",
                behind,
            )
        self._is_told = behind > 0
        return self._date

    def now(self) -> float:
        """Return the clock's time; but if that is more than a day before the date, how far the date would be by now."""
        clock = time.time()
        return clock if clock > self._date - DAY else self._date + time.monotonic() - self._since
