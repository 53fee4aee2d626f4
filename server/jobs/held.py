"""Which model the worker holds, as it says."""

from __future__ import annotations

from typing import Any

from server import metrics
from server.events import EventLog
from server.jobs.messages import Holding, LoadFailed, Loading


class HeldModel:
    """Follows what the worker loads, and tells it in the events of ``models/NAME``: loading, loaded, failed, unloaded."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        #: The model that is loaded; None where none is.
        self.name: str | None = None

    def follow(self, event: Loading | LoadFailed | Holding) -> None:
        """Take over what the worker says."""
        if isinstance(event, Loading):
            self._tell(event.model, "loading", {"network": event.network, "done": event.done, "total": event.total})
        elif isinstance(event, LoadFailed):
            metrics.model_loaded("failed")
            self._tell(event.model, "failed", {"code": event.code, "message": event.message}, last=True)
        else:
            self._hold(event.model)

    def gone(self) -> None:
        """The worker is dead, and nothing is loaded."""
        self._hold(None)

    def _hold(self, model: str | None) -> None:
        former, self.name = self.name, model
        metrics.model_held(model)
        if former is not None and former != model:
            self._tell(former, "unloaded", {}, last=True)
        if model is not None:
            metrics.model_loaded("loaded")
            self._tell(model, "loaded", {}, last=True)

    def _tell(self, model: str, kind: str, data: dict[str, Any], *, last: bool = False) -> None:
        self._events.publish(f"models/{model}", kind, data, last=last)
