"""Estimates of how long jobs take, from measured step times of jobs of the same shape."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from server.pipeline.cost import Cost
from server.pipeline.request import GenerationRequest, JobRequest

#: Weight of a new measurement in the moving average.
_WEIGHT = 0.3


#: Between the names of a model and its refiner, in a shape; no model's name has it.
_BESIDE = ", "


class Shape(NamedTuple):
    """Everything that a step's time depends on.

    model: the model, with its refiner if it has one. batch: the denoiser's rows, 2 with guidance, 1 without.
    """

    model: str
    width: int
    height: int
    batch: int

    @property
    def models(self) -> tuple[str, ...]:
        """The model, and its refiner if it has one."""
        return tuple(self.model.split(_BESIDE))


@dataclass(frozen=True)
class ShapeCost:
    """A job's cost: ``calls`` of the denoiser at a shape, for all its images together, and ``images`` to encode and decode."""

    shape: Shape
    calls: int
    images: int


def shape_cost(request: JobRequest, cost: Cost) -> ShapeCost:
    """Return the cost of a request with its shape; hires fix, whose steps take longer, counts under its larger size."""
    model = request.model
    if isinstance(request, GenerationRequest) and request.refiner is not None:
        # Steps of two models: what they take says nothing about those of one.
        model = f"{model}{_BESIDE}{request.refiner.refiner}"
    size = request.result if isinstance(request, GenerationRequest) and request.hires else request.computed
    shape = Shape(model, size.width, size.height, cost.rows)
    return ShapeCost(shape, cost.calls, cost.decodes)


class CostSum:
    """The cost of several jobs together: calls and images by shape."""

    def __init__(self) -> None:
        self.by_shape: dict[Shape, tuple[int, int]] = {}

    def add(self, cost: ShapeCost) -> None:
        """Add a job's cost."""
        self._add(cost.shape, cost.calls, cost.images)

    def subtract(self, cost: ShapeCost) -> None:
        """Subtract a job's cost that was added before."""
        self._add(cost.shape, -cost.calls, -cost.images)
        if self.by_shape[cost.shape] == (0, 0):
            del self.by_shape[cost.shape]

    def merge(self, other: CostSum) -> None:
        """Add another sum."""
        for shape, (calls, images) in other.by_shape.items():
            self._add(shape, calls, images)

    def _add(self, shape: Shape, calls: int, images: int) -> None:
        before = self.by_shape.get(shape, (0, 0))
        self.by_shape[shape] = before[0] + calls, before[1] + images


@dataclass(frozen=True)
class StepTime:
    """Seconds that a ``step`` takes, and seconds that an ``image`` takes in addition to its steps."""

    step: float
    image: float


class StepTimes:
    """A moving average of step times for each measured shape. Safe to call from several threads."""

    def __init__(self, measured: Mapping[Shape, StepTime]) -> None:
        self._by_shape = dict(measured)
        self._lock = threading.Lock()

    def learn(self, shape: Shape, measured: StepTime) -> StepTime:
        """Add a finished job's measurement; returns the new average."""
        with self._lock:
            before = self._by_shape.get(shape, measured)
            now = StepTime(
                before.step + _WEIGHT * (measured.step - before.step),
                before.image + _WEIGHT * (measured.image - before.image),
            )
            self._by_shape[shape] = now
            return now

    def of(self, shape: Shape) -> StepTime | None:
        """Return the step time of a shape; None before its first job has finished."""
        with self._lock:
            return self._by_shape.get(shape)

    def seconds(self, total: CostSum) -> float | None:
        """Return the seconds that the summed cost takes; None if one of its shapes was never measured."""
        seconds = 0.0
        for shape, (calls, images) in total.by_shape.items():
            step_time = self.of(shape)
            if step_time is None:
                return None
            seconds += calls * step_time.step + images * step_time.image
        return seconds
