"""An outage: something keeps a thread from its work; the thread tries again after longer and longer pauses."""

from __future__ import annotations

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

    def __init__(self, pauses: Pauses | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._pauses, self._clock = pauses or Pauses(), clock
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
        """Note that an attempt has failed; return whether its cause is another than before."""
        before, self.cause = self.cause, fault_of(error) or _internal(error)
        self._attempts += 1
        self._next = self._clock() + self._pauses.after(self._attempts)
        return self.cause != before

    def hurry(self) -> None:
        """End the present pause."""
        self._next = 0.0

    def end(self) -> bool:
        """Note that the work is done; return whether there was an outage."""
        before, self.cause, self._attempts = self.cause, None, 0
        return before is not None


def _internal(error: Exception) -> Fault:
    message = (
        f"an internal error stops the queue ({type(error).__name__}); see the server's log, and restart it if it stays"
    )
    return Fault("internal", message)
