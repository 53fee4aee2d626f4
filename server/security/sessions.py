"""Logins of browsers: each has a random id in its cookie; the data folder keeps which are open, so that a restart ends none.

The file holds HMACs of the ids under the API key and when each login ends, so nobody can log in with what is in it, and
another key ends all of them.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from server.security.private import write_private

log = logging.getLogger("anemone.security")

FILE = "sessions.json"
#: Seconds from a login to its end.
SESSION_SECONDS = 30 * 24 * 3600
#: Open logins; the next one ends the oldest. A program that logs in at every run makes many.
MOST_SESSIONS = 1000
_STORED = TypeAdapter(dict[str, float])


class Sessions:
    """The open logins of one API key. To be used in one thread: the event loop's."""

    def __init__(self, key: bytes, file: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        """``file``: where they are kept; None: in memory only. ``clock`` returns seconds since 1970."""
        self._key, self._file, self._clock = key, file, clock
        #: When each login ends (seconds since 1970) by the HMAC of its id, the oldest login first.
        self._ends = self._read()

    def _read(self) -> dict[str, float]:
        if self._file is None or not self._file.exists():
            return {}
        try:
            return _STORED.validate_json(self._file.read_bytes())
        except ValidationError:
            log.warning("%s is damaged: browsers must log in again", self._file)
        except OSError as error:
            log.warning("%s cannot be read (%s): browsers must log in again", self._file, error.strerror)
        return {}

    def _mac(self, session: str) -> str:
        return hmac.new(self._key, session.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def _save(self) -> None:
        if self._file is not None:
            write_private(self._file, _STORED.dump_json(self._ends))

    def begin(self) -> str:
        """Begin a login and return its id, the cookie's value."""
        now = self._clock()
        kept = [(mac, ends) for mac, ends in self._ends.items() if ends > now][-(MOST_SESSIONS - 1) :]
        session = secrets.token_urlsafe(32)
        self._ends = {**dict(kept), self._mac(session): now + SESSION_SECONDS}
        try:
            self._save()
        except OSError as error:
            # On a full disk its owner can still log in, to delete something.
            log.warning("a login could not be stored and ends with the server: %s", error)
        return session

    def is_open(self, session: str) -> bool:
        """Return whether a cookie's value is the id of an open login."""
        return self._ends.get(self._mac(session), 0.0) > self._clock()

    def end(self, session: str) -> None:
        """End a login; one that is not open stays so. Raises OSError if the server's next start would open it again."""
        if self._ends.pop(self._mac(session), None) is not None:
            self._save()
