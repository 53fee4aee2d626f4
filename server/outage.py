"""An outage: something keeps a thread from its work; the thread tries again after longer and longer pauses."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.faults import Fault, fault_of

#: An outage is long once so many attempts have failed, 3 s after its begin with the usual pauses.
_LONG_ATTEMPTS = 3


@dataclass(frozen=True)
class Pauses:
    """The seconds before the next attempt: ``first``, doubled after every failed one, up to ``longest``."""

    first: float = 1.0
    longest: float = 30.0

    def after(self, attempts: int) -> float:
        """Return the seconds to wait after so many failed attempts."""
        return min(self.first * 2.0 ** min(attempts - 1, 30), self.longest)


class Outage:
    """The present outage, if there is one. One thread changes it, any thread may read it or call `hurry`.

    cause: what is wrong; None while there is no outage.
    """

    def __init__(
        self,
        of: str,
        log: logging.Logger,
        pauses: Pauses | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``of``: what is stopped, in words for the log."""
        self._of, self._log, self._pauses, self._clock = of, log, pauses or Pauses(), clock
        self.cause: Fault | None = None
        self._attempts, self._next = 0, 0.0

    @property
    def is_due(self) -> bool:
        """Whether to work now: there is no outage, or its pause is over."""
        return self.seconds_left in (0.0, math.inf)

    @property
    def seconds_left(self) -> float:
        """The seconds until the next attempt; infinity if there is no outage."""
        return math.inf if self.cause is None else max(0.0, self._next - self._clock())

    @property
    def is_long(self) -> bool:
        """Whether it has lasted so long that clients are not kept waiting."""
        return self._attempts >= _LONG_ATTEMPTS

    def failed(self, error: Exception) -> bool:
        """Note and log that an attempt has failed; return whether its cause is another than before."""
        before, fault = self.cause, fault_of(error)
        if fault is None:
            self._log.error("an internal error stops %s for now", self._of, exc_info=error)
        self.cause = fault or self._internal(error)
        self._attempts += 1
        self._next = self._clock() + self._pauses.after(self._attempts)
        if self.cause == before:
            return False
        self._log.error("an outage stops %s for now: %s (%s)", self._of, self.cause.message, error)
        return True

    def hurry(self) -> None:
        """End the present pause."""
        self._next = 0.0

    def end(self) -> bool:
        """Note that the work is done; return whether there was an outage."""
        before, self.cause, self._attempts = self.cause, None, 0
        return before is not None

    def _internal(self, error: Exception) -> Fault:
        kind = type(error).__name__
        message = f"an internal error stops {self._of} ({kind}); see the server's log, and restart it if it stays"
        return Fault("internal", message)
