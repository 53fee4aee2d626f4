"""How long jobs take, by how long those of their shape took before."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from server.pipeline.cost import Cost
from server.pipeline.request import GenerationRequest

#: What a new measurement counts against all before it.
_WEIGHT = 0.3


class Shape(NamedTuple):
    """What the length of a step depends on. ``batch`` is the UNet's rows: 2 with guidance, 1 without."""

    model: str
    width: int
    height: int
    batch: int


@dataclass(frozen=True)
class Work:
    """What a job has to do: ``steps`` (calls of the UNet) in all its pictures together, and ``pictures`` to encode and decode."""

    shape: Shape
    steps: int
    pictures: int


def work_of(request: GenerationRequest, cost: Cost) -> Work:
    """Return the work of a request that costs this."""
    shape = Shape(request.model, request.width, request.height, cost.rows)
    return Work(shape, cost.calls, cost.decodes)


class Tally:
    """The work of several jobs together: steps and pictures by shape."""

    def __init__(self) -> None:
        self.work: dict[Shape, tuple[int, int]] = {}

    def add(self, work: Work) -> None:
        """Count a job's work in."""
        self._count(work.shape, work.steps, work.pictures)

    def take(self, work: Work) -> None:
        """Count a job's work out again."""
        self._count(work.shape, -work.steps, -work.pictures)
        if self.work[work.shape] == (0, 0):
            del self.work[work.shape]

    def merge(self, other: Tally) -> None:
        """Count another tally in."""
        for shape, (steps, pictures) in other.work.items():
            self._count(shape, steps, pictures)

    def _count(self, shape: Shape, steps: int, pictures: int) -> None:
        before = self.work.get(shape, (0, 0))
        self.work[shape] = before[0] + steps, before[1] + pictures


@dataclass(frozen=True)
class Pace:
    """Seconds a step takes, and what a picture takes beyond its steps."""

    step: float
    picture: float


class Paces:
    """A moving average for every shape that was measured. Safe to call from several threads."""

    def __init__(self, known: Mapping[Shape, Pace]) -> None:
        self._known = dict(known)
        self._lock = threading.Lock()

    def learn(self, shape: Shape, measured: Pace) -> Pace:
        """Count in what a job has just taken; the average as it is now."""
        with self._lock:
            before = self._known.get(shape, measured)
            now = Pace(
                before.step + _WEIGHT * (measured.step - before.step),
                before.picture + _WEIGHT * (measured.picture - before.picture),
            )
            self._known[shape] = now
            return now

    def of(self, shape: Shape) -> Pace | None:
        """The pace of a shape; None before its first job is done."""
        with self._lock:
            return self._known.get(shape)

    def seconds(self, tally: Tally) -> float | None:
        """How long the tally's work takes; None where any of it is of a shape that was never measured."""
        total = 0.0
        for shape, (steps, pictures) in tally.work.items():
            pace = self.of(shape)
            if pace is None:
                return None
            total += steps * pace.step + pictures * pace.picture
        return total
