"""The job the worker is at: how far it is, and how long it will take."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

from server.jobs.messages import Progressed
from server.jobs.order import Waiting
from server.jobs.pace import Pace


class Running:
    """Follows a job's steps. One thread tells it of them, any may ask."""

    def __init__(self, waiting: Waiting, clock: Callable[[], float] = time.monotonic) -> None:
        self.waiting, self._clock = waiting, clock
        self.is_cancelling = False
        self.steps_done, self.step_seconds = 0, 0.0
        #: The newest step; None before the first.
        self.at: Progressed | None = None
        self._preview: bytes | None = None
        self._began = clock()

    @property
    def job_id(self) -> str:
        """Whose steps these are."""
        return self.waiting.job_id

    @property
    def seconds(self) -> float:
        """How long it has been running, without the loading of its model."""
        return self._clock() - self._began

    @property
    def preview(self) -> bytes | None:
        """What its picture looks like now, as a small JPEG; None where the model gives no previews."""
        return self._preview

    def loaded(self) -> None:
        """Its model is loaded only now: what went before is not the job's own time."""
        if self.at is None:
            self._began = self._clock()

    def step(self, event: Progressed) -> None:
        """Count a step in."""
        self.steps_done += 1
        self.step_seconds += event.seconds
        self.at = event
        self._preview = event.preview or self._preview

    @property
    def fraction(self) -> float:
        """How much of all its pictures' steps is done, 0 to 1."""
        at = self.at
        if at is None:
            return 0.0
        return min(1.0, (at.image + at.step / max(1, at.total)) / self.waiting.work.pictures)

    def seconds_left(self, pace: Pace | None) -> float | None:
        """How long it will take still: by its own steps where it has made some, else by ``pace``; None without both."""
        work, at, done = self.waiting.work, self.at, self.steps_done
        if at is None:
            return None if pace is None else work.steps * pace.step + work.pictures * pace.picture
        pictures = work.pictures - at.image
        steps = pictures * at.total - at.step
        return steps * self.step_seconds / done + pictures * (pace.picture if pace else 0.0)

    def told(self, pace: Pace | None) -> dict[str, Any]:
        """The newest step, for the job's events; only after one."""
        at, left = self.at, self.seconds_left(pace)
        assert at is not None
        return {
            "image": at.image,
            "step": at.step,
            "steps": at.total,
            "fraction": round(self.fraction, 4),
            "eta": None if left is None else round(left, 3),
            "preview": None if at.preview is None else base64.b64encode(at.preview).decode(),
        }

    def measured(self) -> Pace | None:
        """What it took, to be asked when it has succeeded; None where it made no step."""
        if not self.steps_done:
            return None
        beyond = self.seconds - self.step_seconds
        return Pace(self.step_seconds / self.steps_done, max(0.0, beyond) / self.waiting.work.pictures)
