"""Which job goes next: by priority, clients in turn, and those of the loaded model a little earlier."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from server.jobs.job import PRIORITIES, Priority
from server.jobs.line import Line, Place
from server.jobs.pace import Tally, Work

#: Loading a model takes seconds to minutes, so jobs of the loaded one may pass the job whose turn it is: at most so many,
#: and none once that job has been passed for so many seconds.
MOST_PASSING = 8
PASSING_SECONDS = 120.0
_CLIENTS_KEPT = 1000


@dataclass(frozen=True)
class Waiting:
    """A queued job, as far as its order goes."""

    job_id: str
    place: Place
    priority: Priority
    client: str
    work: Work


@dataclass
class _Passed:
    """How often a job whose turn it was had another one go before it, and since when (monotonic seconds)."""

    times: int
    since: float


class Order:
    """The queued jobs in the order they go. Safe to call from several threads.

    Clients take turns by start-time fair queueing (Goyal, Vin and Cheng 1996), counted in pictures: a job's turn is the
    end of its client's job before it, or now for a client that has none waiting. So a turn is fixed when the job comes,
    is kept with it, and finding a job's place costs no more in a long queue than in a short one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[str, Waiting] = {}
        self._at: dict[tuple[Priority, Place], str] = {}
        self._lines: dict[Priority, dict[str, Line]] = {priority: {} for priority in PRIORITIES}
        self._turn: dict[Priority, float] = dict.fromkeys(PRIORITIES, 0.0)
        self._ends: dict[tuple[Priority, str], float] = {}
        self._open: Counter[tuple[Priority, str]] = Counter()
        self._passed: dict[str, _Passed] = {}
        self._taken = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def turn(self, client: str, priority: Priority) -> float:
        """The turn of a job that comes now."""
        with self._lock:
            return max(self._turn[priority], self._ends.get((priority, client), 0.0))

    def add(self, job: Waiting) -> None:
        """Let a job wait: a new one, or one that is put back where it was."""
        who = (job.priority, job.client)
        with self._lock:
            self._jobs[job.job_id] = job
            self._at[job.priority, job.place] = job.job_id
            self._lines[job.priority].setdefault(job.work.shape.model, Line()).add(job.place, job.work)
            self._open[who] += 1
            self._ends[who] = max(self._ends.get(who, 0.0), job.place.turn + job.work.pictures)

    def remove(self, job_id: str) -> bool:
        """Let a job wait no longer; whether it did."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                return False
            self._drop(job)
            who = (job.priority, job.client)
            if who not in self._open:
                # What it took back it need not wait for.
                self._ends.pop(who, None)
            return True

    def _drop(self, job: Waiting) -> None:
        del self._jobs[job.job_id], self._at[job.priority, job.place]
        self._passed.pop(job.job_id, None)
        lines, model = self._lines[job.priority], job.work.shape.model
        lines[model].remove(job.place)
        if not lines[model]:
            del lines[model]
        who = (job.priority, job.client)
        self._open[who] -= 1
        if not self._open[who]:
            del self._open[who]

    def take(self, loaded: str | None) -> Waiting | None:
        """The job that goes next, which waits no longer; None where none waits. ``loaded`` is the worker's model.

        It goes before all that wait until `done` is called.
        """
        with self._lock:
            for priority in PRIORITIES:
                if self._lines[priority]:
                    job = self._next(priority, loaded)
                    self._drop(job)
                    self._taken += 1
                    self._turn[priority] = max(self._turn[priority], job.place.turn)
                    if len(self._ends) > _CLIENTS_KEPT:
                        self._ends = {who: end for who, end in self._ends.items() if end > self._turn[who[0]]}
                    return job
        return None

    def done(self) -> None:
        """A job that was taken is over, or comes back."""
        with self._lock:
            self._taken -= 1

    def _next(self, priority: Priority, loaded: str | None) -> Waiting:
        lines = self._lines[priority]
        due = self._jobs[self._at[priority, min(place for line in lines.values() if (place := line.first()))]]
        following = lines[loaded].first() if loaded in lines else None
        if following is None or following == due.place:
            return due
        now = self._clock()
        passed = self._passed.setdefault(due.job_id, _Passed(0, now))
        if passed.times >= MOST_PASSING or now - passed.since >= PASSING_SECONDS:
            return due
        passed.times += 1
        return self._jobs[self._at[priority, following]]

    def ahead(self, job_id: str) -> tuple[int, Tally] | None:
        """How many go before a job, and its work with that of those who wait; None where it does not wait.

        Without the loaded model's passing, which is not known before it happens.
        """
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                return None
            count, tally = self._taken, Tally()
            for priority in PRIORITIES:
                own = priority == job.priority
                for line in self._lines[priority].values():
                    count += line.before(job.place if own else _LAST, tally)
                if own:
                    break
            tally.add(job.work)
            return count, tally

    def count_of(self, model: str) -> int:
        """How many jobs wait for a model."""
        with self._lock:
            return sum(len(lines[model]) for lines in self._lines.values() if model in lines)


_LAST = Place(float("inf"), 0)
