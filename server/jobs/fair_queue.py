"""The fair queue decides which job runs next: by priority, then clients in turn; jobs of the loaded model go a little earlier."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from server.jobs.estimates import CostSum, ShapeCost
from server.jobs.job import PRIORITIES, Priority
from server.pipeline.request import needs_model

#: Loading a model takes seconds to minutes, so jobs of the loaded model may overtake the job that is due: at most so many
#: of them, and only for so many seconds after the first.
MOST_OVERTAKING = 8
OVERTAKING_SECONDS = 120.0
_CLIENTS_KEPT = 1000
#: A block that grows to twice this length is split in two. Ten thousand jobs are then about a hundred blocks: finding a key,
#: and summing the cost before it, takes about a hundred steps over blocks and as many inside one.
_BLOCK = 64


class QueueKey(NamedTuple):
    """The sort key of jobs of one priority: the start tag, then the job's number."""

    start_tag: float
    number: int


_LAST = QueueKey(float("inf"), 0)


class _Block:
    def __init__(self, keys: list[QueueKey], costs: dict[QueueKey, ShapeCost]) -> None:
        self.keys, self.costs, self.sum = keys, costs, CostSum()
        for cost in costs.values():
            self.sum.add(cost)

    def split(self) -> tuple[_Block, _Block]:
        middle = len(self.keys) // 2
        first, second = (
            _Block(part, {k: self.costs[k] for k in part}) for part in (self.keys[:middle], self.keys[middle:])
        )
        return first, second


class SortedJobs:
    """Sorted keys with the cost of each job. Adding, removing and summing take time in proportion to about the root of the length."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[QueueKey]:
        for block in self._blocks:
            yield from block.keys

    def first(self) -> QueueKey | None:
        """Return the first key; None if there are no jobs."""
        return self._blocks[0].keys[0] if self._blocks else None

    def _block(self, key: QueueKey) -> int:
        """Return the index of the block for ``key``: the first block whose last key is not before it."""
        return min(bisect_left(self._blocks, key, key=lambda b: b.keys[-1]), len(self._blocks) - 1)

    def add(self, key: QueueKey, cost: ShapeCost) -> None:
        """Add a job under a key that no other has."""
        self._length += 1
        if not self._blocks:
            self._blocks = [_Block([key], {key: cost})]
            return
        index = self._block(key)
        block = self._blocks[index]
        block.keys.insert(bisect_left(block.keys, key), key)
        block.costs[key] = cost
        block.sum.add(cost)
        if len(block.keys) >= 2 * _BLOCK:
            self._blocks[index : index + 1] = block.split()

    def remove(self, key: QueueKey) -> None:
        """Remove a job; raises KeyError if no job has this key."""
        block = self._blocks[self._block(key)]
        block.sum.subtract(block.costs.pop(key))
        del block.keys[bisect_left(block.keys, key)]
        self._length -= 1
        if not block.keys:
            self._blocks.remove(block)

    def before(self, key: QueueKey, total: CostSum) -> int:
        """Count the jobs before ``key`` (which may be absent itself), and add their cost to ``total``."""
        count = 0
        for block in self._blocks:
            if block.keys[-1] < key:
                count += len(block.keys)
                total.merge(block.sum)
                continue
            within = bisect_left(block.keys, key)
            for other in block.keys[:within]:
                total.add(block.costs[other])
            return count + within
        return count


@dataclass(frozen=True)
class QueuedJob:
    """A queued job, as far as the fair queue needs it."""

    job_id: str
    key: QueueKey
    priority: Priority
    client: str
    cost: ShapeCost

    @property
    def model(self) -> str:
        """The model that makes its images, or what it is listed under if it needs none."""
        return self.cost.shape.models[0]


@dataclass
class _Overtaken:
    """How many jobs have overtaken the one that was due, and since when (monotonic seconds)."""

    times: int
    since: float


class FairQueue:
    """The queued jobs in the order in which they run. Safe to call from several threads.

    Clients take turns by start-time fair queueing (Goyal, Vin and Cheng 1996), counted in images: a job's start tag is the
    finish tag of its client's job before it, or the virtual time if the client has no job queued. The tag is therefore
    fixed when the job is submitted and is stored with it; finding a job's position costs little more in a long queue than
    in a short one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[str, QueuedJob] = {}
        self._ids: dict[tuple[Priority, QueueKey], str] = {}
        self._sorted: dict[Priority, dict[str, SortedJobs]] = {priority: {} for priority in PRIORITIES}
        self._virtual_time: dict[Priority, float] = dict.fromkeys(PRIORITIES, 0.0)
        self._finish_tags: dict[tuple[Priority, str], float] = {}
        self._open: Counter[tuple[Priority, str]] = Counter()
        self._of_models: Counter[str] = Counter()
        self._overtaken: dict[str, _Overtaken] = {}
        self._taken = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def start_tag(self, client: str, priority: Priority) -> float:
        """Return the start tag of a job that is submitted now."""
        with self._lock:
            return max(self._virtual_time[priority], self._finish_tags.get((priority, client), 0.0))

    def add(self, job: QueuedJob) -> None:
        """Queue a new job, or put a job back into its former position."""
        flow = (job.priority, job.client)
        with self._lock:
            self._jobs[job.job_id] = job
            self._ids[job.priority, job.key] = job.job_id
            self._sorted[job.priority].setdefault(job.model, SortedJobs()).add(job.key, job.cost)
            self._open[flow] += 1
            self._of_models.update(job.cost.shape.models)
            self._finish_tags[flow] = max(self._finish_tags.get(flow, 0.0), job.key.start_tag + job.cost.images)

    def remove(self, job_id: str) -> bool:
        """Remove a job; returns whether it was queued."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                return False
            self._drop(job)
            self._of_models -= Counter(job.cost.shape.models)
            flow = (job.priority, job.client)
            if flow not in self._open:
                # A client does not wait for jobs that it cancelled.
                self._finish_tags.pop(flow, None)
            return True

    def _drop(self, job: QueuedJob) -> None:
        del self._jobs[job.job_id], self._ids[job.priority, job.key]
        self._overtaken.pop(job.job_id, None)
        by_model = self._sorted[job.priority]
        by_model[job.model].remove(job.key)
        if not by_model[job.model]:
            del by_model[job.model]
        flow = (job.priority, job.client)
        self._open[flow] -= 1
        if not self._open[flow]:
            del self._open[flow]

    def take(self, loaded: str | None, *, models: bool = True) -> QueuedJob | None:
        """Remove and return the next job; None if no job is queued. ``loaded`` is the model that the worker has loaded.

        models: whether jobs that need a model can run now. The job counts as ahead of all queued ones until `done` is called.
        """
        with self._lock:
            for priority in PRIORITIES:
                by_model = {
                    name: jobs for name, jobs in self._sorted[priority].items() if models or not needs_model(name)
                }
                if by_model:
                    job = self._next(priority, by_model, loaded)
                    self._drop(job)
                    self._taken += 1
                    self._virtual_time[priority] = max(self._virtual_time[priority], job.key.start_tag)
                    if len(self._finish_tags) > 2 * _CLIENTS_KEPT:
                        self._forget_flows()
                    return job
        return None

    def _forget_flows(self) -> None:
        """Forget the finish tags that matter least: a client that is forgotten starts at the virtual time, as a new one does."""
        by_lead = sorted(self._finish_tags.items(), key=lambda flow: flow[1] - self._virtual_time[flow[0][0]])
        self._finish_tags = dict(by_lead[-_CLIENTS_KEPT:])

    def done(self, job: QueuedJob) -> None:
        """Note that a job that was taken has ended, or went back to the queue."""
        with self._lock:
            self._taken -= 1
            self._of_models -= Counter(job.cost.shape.models)

    def _next(self, priority: Priority, by_model: dict[str, SortedJobs], loaded: str | None) -> QueuedJob:
        due = self._jobs[self._ids[priority, min(key for jobs in by_model.values() if (key := jobs.first()))]]
        following = by_model[loaded].first() if loaded in by_model else None
        if following is None or following == due.key:
            return due
        now = self._clock()
        overtaken = self._overtaken.setdefault(due.job_id, _Overtaken(0, now))
        if overtaken.times >= MOST_OVERTAKING or now - overtaken.since >= OVERTAKING_SECONDS:
            return due
        overtaken.times += 1
        return self._jobs[self._ids[priority, following]]

    def ahead(self, job_id: str) -> tuple[int, CostSum] | None:
        """Count the jobs before this one, and sum its cost and theirs (of the queued ones); None if it is not queued.

        Overtaking by the loaded model's jobs is left out: it cannot be known in advance.
        """
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                return None
            count, total = self._taken, CostSum()
            for priority in PRIORITIES:
                own = priority == job.priority
                for jobs in self._sorted[priority].values():
                    count += jobs.before(job.key if own else _LAST, total)
                if own:
                    break
            total.add(job.cost)
            return count, total

    def count_by(self, client: str) -> int:
        """Count a client's queued jobs, whatever their priority."""
        with self._lock:
            return sum(self._open[priority, client] for priority in PRIORITIES)

    def count_of(self, model: str) -> int:
        """Count the jobs that use a model, the queued ones and those that were taken."""
        with self._lock:
            return self._of_models[model]

    @property
    def has_jobs_without_model(self) -> bool:
        """Whether a job is queued that needs no model."""
        with self._lock:
            return any(not needs_model(name) for by_model in self._sorted.values() for name in by_model)
