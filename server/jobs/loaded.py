"""The model that is loaded in the worker."""

from __future__ import annotations

from typing import Any

from server import metrics
from server.events import EventLog
from server.jobs.messages import Loaded, LoadFailed, Loading


class LoadedModel:
    """Follows what the worker loads, and publishes it in the events of ``models/NAME``: loading, loaded, failed, unloaded."""

    def __init__(self, events: EventLog) -> None:
        self._events = events
        #: The model that is loaded; None if none is.
        self.name: str | None = None

    def follow(self, event: Loading | LoadFailed | Loaded) -> None:
        """Apply what the worker says."""
        if isinstance(event, Loading):
            self._publish(event.model, "loading", {"network": event.network, "done": event.done, "total": event.total})
        elif isinstance(event, LoadFailed):
            metrics.model_loaded("failed")
            self._publish(event.model, "failed", {"code": event.code, "message": event.message}, last=True)
        else:
            self._set(event.model)

    def gone(self) -> None:
        """Note that the worker died, and nothing is loaded."""
        self._set(None)

    def _set(self, model: str | None) -> None:
        former, self.name = self.name, model
        metrics.model_is_loaded(model)
        if former is not None and former != model:
            self._publish(former, "unloaded", {}, last=True)
        if model is not None:
            metrics.model_loaded("loaded")
            self._publish(model, "loaded", {}, last=True)

    def _publish(self, model: str, kind: str, data: dict[str, Any], *, last: bool = False) -> None:
        self._events.publish(f"models/{model}", kind, data, last=last)
