"""The models that workers load: events of ``models/NAME``, and the readiness of the first model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from server import metrics
from server.events import EventLog
from server.jobs.messages import DAMAGED, Loaded, LoadFailed, Loading
from server.jobs.readiness import Readiness, ReadinessBoard
from server.jobs.worker_slot import WorkerSlot

_AGAIN = "; it is being converted again"
_CURE = "; on the server's machine, convert it again or put the original file back"

#: Finds out how a model is made again; None if it cannot be.
FindRepair = Callable[[str], Callable[[], None] | None]


def remedy(code: str | None, is_restored: bool) -> str:
    """Return the end of a message about a model that cannot be loaded."""
    return "" if code != DAMAGED else _AGAIN if is_restored else _CURE


class LoadedModels:
    """Follows what the workers load.

    first: the model that each worker loads first; None until it is installed. first_is_gone: whether its folder is missing.
    find_repair: is asked for models that are damaged or gone.
    """

    def __init__(self, slots: Sequence[WorkerSlot], events: EventLog, board: ReadinessBoard) -> None:
        self._slots, self._events, self._board = slots, events, board
        self.first: str | None = None
        self.first_is_gone = False
        self.find_repair: FindRepair = lambda model: None

    @property
    def names(self) -> list[str]:
        """The models that are loaded."""
        return sorted({slot.loaded for slot in self._slots if slot.loaded is not None})

    def handle(self, slot: WorkerSlot, event: Loading | LoadFailed | Loaded) -> None:
        """Handle a worker's event."""
        if isinstance(event, Loading):
            self._on_loading(event)
        elif isinstance(event, LoadFailed):
            self._on_failed(slot, event)
        else:
            self.set_loaded(slot, event.model)

    def _on_loading(self, event: Loading) -> None:
        progress = event.progress
        data = {"network": progress.item, "done": progress.done, "total": progress.total}
        self._publish(event.model, "loading", data)
        if self._board.is_starting and event.model == self.first:
            self._board.set_model(Readiness("loading", progress))

    def _on_failed(self, slot: WorkerSlot, event: LoadFailed) -> None:
        is_starting = self._board.is_starting and event.model == self.first
        restored = event.code == DAMAGED and self.restore(event.model)
        reason = f"{event.reason}{remedy(event.code, restored)}"
        self._load_failed(slot, event.model, event.code, f"{event.model} cannot be loaded: {reason}")
        if is_starting and not restored:
            self._board.fail(reason)

    def fail_loads(self, slot: WorkerSlot, code: str, why: str) -> None:
        """Publish that the slot's worker does not load any more what clients asked it to."""
        for model in tuple(slot.loads):  # a client may ask for another meanwhile
            self._load_failed(slot, model, code, f"{model} was not loaded: {why}")

    def _load_failed(self, slot: WorkerSlot, model: str, code: str, message: str) -> None:
        slot.loads.discard(model)
        metrics.model_loaded("failed")
        self._publish(model, "failed", {"code": code, "message": message}, last=True)

    def restore(self, model: str) -> bool:
        """Have a model that is damaged or gone made again if that can be; return whether it is."""
        repair = self.find_repair(model)
        if repair is None:
            return False
        if model == self.first:
            self._board.set_model(Readiness())
        repair()
        return True

    def set_first_gone(self, reason: str) -> None:
        """Have the first model made again, or publish that it is gone."""
        if self.first is not None and not self.restore(self.first):
            self.first_is_gone = True
            self._board.fail(reason)

    def set_loaded(self, slot: WorkerSlot, model: str | None) -> None:
        """Note and publish that the slot's worker has loaded this model, or, if None, that it has none any more."""
        former, slot.loaded = slot.loaded, model
        slot.idle_since = time.monotonic()
        metrics.models_are_loaded(len(self.names))
        if former is not None and former != model:
            self._publish(former, "unloaded", {}, last=True)
        if model is None:
            return
        slot.loads.discard(model)
        slot.deaths = 0  # what killed it was not the load
        metrics.model_loaded("loaded")
        self._publish(model, "loaded", {}, last=True)
        if slot.running is not None:
            slot.running.model_loaded()
        if self._board.is_starting:
            self._board.set_model(Readiness("ready", model=self.first))

    def _publish(self, model: str, kind: str, data: dict[str, Any], *, last: bool = False) -> None:
        self._events.publish(f"models/{model}", kind, data, last=last)
