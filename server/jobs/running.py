"""A running job: its progress, its step times and its estimate."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

from converter.progress import Progress
from server.jobs.estimates import StepTime
from server.jobs.fair_queue import QueuedJob
from server.jobs.job import fraction_done
from server.jobs.messages import Progressed


class Running:
    """A job that a worker runs, with its steps. One thread adds steps, any thread may read.

    slot: the number of the worker slot that runs it.
    """

    def __init__(self, job: QueuedJob, slot: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.job, self.slot, self._clock = job, slot, clock
        self.is_cancelling = False
        self.steps_done, self.step_seconds, self._calls_done = 0, 0.0, 0
        #: The newest step; None before the first.
        self.last_step: Progressed | None = None
        #: What it waits for before its first step; None afterwards.
        self.preparing: Progress | None = None
        #: The newest preview, a small JPEG; None if there is none yet.
        self.preview: bytes | None = None
        self._began = clock()

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.job.job_id

    @property
    def seconds(self) -> float:
        """The seconds that it has been running, without the loading of its model."""
        return self._clock() - self._began

    def model_loaded(self) -> None:
        """Restart the clock if the job has made no step yet: loading the model is not part of its time."""
        if self.last_step is None:
            self._began = self._clock()

    def step(self, event: Progressed) -> None:
        """Add a step."""
        self.steps_done += 1
        self._calls_done += event.calls
        self.step_seconds += event.seconds
        self.last_step, self.preparing = event, None
        self.preview = event.preview or self.preview

    @property
    def fraction(self) -> float:
        """The fraction of its steps, over all images, that are done, 0 to 1."""
        last = self.last_step
        if last is None:
            return 0.0
        return fraction_done(last.image, last.step, last.total, self.job.cost.images)

    def seconds_left(self, step_time: StepTime | None) -> float | None:
        """Return the estimated seconds until it ends, from its own steps or, before the first, from ``step_time``.

        Returns None if there is neither.
        """
        cost, last = self.job.cost, self.last_step
        if last is None:
            return None if step_time is None else cost.calls * step_time.step + cost.images * step_time.image
        images = cost.images - last.image
        by_steps = (images * last.total - last.step) / self.steps_done
        # Longer where steps in windows, of many calls each, are still to come.
        by_calls = (cost.calls - self._calls_done) / self._calls_done
        return max(by_steps, by_calls) * self.step_seconds + images * (step_time.image if step_time else 0.0)

    def to_dict(self, step_time: StepTime | None) -> dict[str, Any]:
        """Return the newest step as the data of a progress event; to be called only after a step."""
        last, seconds_left = self.last_step, self.seconds_left(step_time)
        assert last is not None
        return {
            "image": last.image,
            "step": last.step,
            "steps": last.total,
            "fraction": round(self.fraction, 4),
            "eta": None if seconds_left is None else round(seconds_left, 3),
            "preview": None if last.preview is None else base64.b64encode(last.preview).decode(),
        }

    def measured(self) -> StepTime | None:
        """Return the step time of the job, to be called once it has succeeded; None if it made no step.

        It is that of a call with all rows: steps outside the guidance interval have fewer (see `server.pipeline.cost`).
        """
        if not self.steps_done:
            return None
        beyond = self.seconds - self.step_seconds
        return StepTime(self.step_seconds / self.job.cost.calls, max(0.0, beyond) / self.job.cost.images)
