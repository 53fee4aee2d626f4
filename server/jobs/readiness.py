"""Whether the server can make images, and what it waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from converter.progress import Progress, Stage
from server.faults import Fault
from server.outage import Outage


@dataclass(frozen=True)
class Readiness:
    """The state of the first model, or "paused" while an outage keeps jobs from running.

    message: why it failed or is paused. model: the name of the model that is ready. cause: of the pause.
    """

    state: Stage | Literal["starting", "ready", "paused", "failed"] = "starting"
    progress: Progress | None = None
    message: str | None = None
    model: str | None = None
    cause: Fault | None = None


class ReadinessBoard:
    """Publishes the readiness: the state of the first model, and the present outage.

    model: the state of the first model, whatever the outage.
    """

    def __init__(
        self, outage: Outage, on_readiness: Callable[[Readiness], None], tell_watchers: Callable[[], None]
    ) -> None:
        """``on_readiness`` is called at every change, ``tell_watchers`` if those who watch jobs should look again."""
        self._outage, self._on_readiness, self._tell_watchers = outage, on_readiness, tell_watchers
        self.model = Readiness()

    @property
    def now(self) -> Readiness:
        """The readiness."""
        cause = self._outage.cause
        if cause is None or self.model.state == "failed":
            return self.model
        return replace(self.model, state="paused", message=cause.message, cause=cause)

    def is_stuck(self, needs_model: bool) -> bool:
        """Return whether clients should not wait for a job: the outage is long, or its model failed if it needs one."""
        return self._outage.is_long or (needs_model and self.model.state == "failed")

    @property
    def is_starting(self) -> bool:
        """Whether the first model may still become ready."""
        return self.model.state not in ("ready", "failed")

    def set_model(self, state: Readiness) -> None:
        """Publish a change of the first model's state."""
        self.model = state
        self._on_readiness(self.now)
        if state.state == "failed":
            # Clients that wait for a job read it again, and see that no worker will run it.
            self._tell_watchers()

    def fail(self, message: str) -> None:
        """Publish why there will be no first model."""
        self.set_model(replace(self.model, state="failed", message=message))

    def attempt_failed(self, *, is_new: bool) -> None:
        """Publish that the outage goes on, or, if ``is_new``, its cause."""
        if is_new:
            self._on_readiness(self.now)
        # Each time: at some point clients do not wait any longer.
        self._tell_watchers()

    def outage_ended(self) -> None:
        """Publish that there is no outage any more."""
        self._on_readiness(self.now)
        self._tell_watchers()
