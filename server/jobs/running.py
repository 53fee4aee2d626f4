"""The job that a worker runs: its progress, and how long it will take."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

from server.jobs.estimates import StepTime
from server.jobs.fair_queue import QueuedJob
from server.jobs.messages import Progressed


class Running:
    """Follows a job's steps. One thread adds them, any may read.

    slot: the number of the worker slot that runs it.
    """

    def __init__(self, job: QueuedJob, slot: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.job, self.slot, self._clock = job, slot, clock
        self.is_cancelling = False
        self.steps_done, self.step_seconds = 0, 0.0
        #: The newest step; None before the first.
        self.last_step: Progressed | None = None
        #: What its image looks like now, as a small JPEG; None if the model gives no previews.
        self.preview: bytes | None = None
        self._began = clock()

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.job.job_id

    @property
    def seconds(self) -> float:
        """How long it has been running, without the loading of its model."""
        return self._clock() - self._began

    def model_loaded(self) -> None:
        """Begin to measure anew if no step is done yet: loading its model is not the job's own time."""
        if self.last_step is None:
            self._began = self._clock()

    def step(self, event: Progressed) -> None:
        """Add a step."""
        self.steps_done += 1
        self.step_seconds += event.seconds
        self.last_step = event
        self.preview = event.preview or self.preview

    @property
    def fraction(self) -> float:
        """The share of all its images' steps that is done, 0 to 1."""
        last = self.last_step
        if last is None:
            return 0.0
        return min(1.0, (last.image + last.step / max(1, last.total)) / self.job.cost.images)

    def seconds_left(self, known: StepTime | None) -> float | None:
        """Return how long it will still take: by its own steps if it has made some, else as ``known``; None without both."""
        cost, last = self.job.cost, self.last_step
        if last is None:
            return None if known is None else cost.calls * known.step + cost.images * known.image
        images = cost.images - last.image
        steps = images * last.total - last.step
        return steps * self.step_seconds / self.steps_done + images * (known.image if known else 0.0)

    def to_dict(self, known: StepTime | None) -> dict[str, Any]:
        """Return the newest step for the job's events; only after one."""
        last, left = self.last_step, self.seconds_left(known)
        assert last is not None
        return {
            "image": last.image,
            "step": last.step,
            "steps": last.total,
            "fraction": round(self.fraction, 4),
            "eta": None if left is None else round(left, 3),
            "preview": None if last.preview is None else base64.b64encode(last.preview).decode(),
        }

    def measured(self) -> StepTime | None:
        """Return what it took, once it has succeeded; None if it made no step."""
        if not self.steps_done:
            return None
        beyond = self.seconds - self.step_seconds
        return StepTime(self.step_seconds / self.steps_done, max(0.0, beyond) / self.job.cost.images)
