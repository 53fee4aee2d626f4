"""Predictors without networks, and what a generator returns."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from server.pipeline.networks import Call

_T = TypeVar("_T")


@dataclass(frozen=True)
class Constant:
    """A predictor that always predicts the same, in one call."""

    prediction: Any

    def predict(self, noisy: Any, moment: Any) -> Generator[Call, None, Any]:
        yield Call(0.0)
        return self.prediction


def returned(generator: Generator[Any, None, _T]) -> _T:
    """Run a generator to its end, and return what it returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
