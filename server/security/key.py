"""The API key, kept in the data folder; programs send it as a Bearer token or by Basic, browsers as a cookie.

The file contains the key itself, not a hash, and only its owner can read it: the owner needs the key for the next client,
and anyone who can read the folder can read the images anyway. The cookie is the random id of a login (`server.security.sessions`).
"""

from __future__ import annotations

import base64
import hmac
import math
import os
import secrets
from pathlib import Path
from typing import Literal, TypeAlias

from starlette.requests import cookie_parser
from starlette.types import Scope

from converter.errors import AnemoneError
from server.errors import ApiError
from server.security.headers import header
from server.security.private import remade, write_private
from server.security.rate import Buckets, client_of
from server.security.sessions import Sessions

FILE = "api-key"
COOKIE = "anemone_session"
#: Wrong keys a minute from one client; after these the server refuses all its requests.
_WRONG_A_MINUTE = 10
#: Characters; a shorter key could be guessed over a network.
SHORTEST = 16


def is_key(text: str) -> bool:
    """Return whether a text is a valid key: long enough to resist guessing, and visible ASCII, which fits into a header."""
    return len(text) >= SHORTEST and text.isascii() and text.isprintable() and " " not in text


class ApiKey:
    """A key; it is compared in constant time, and its repr does not show it."""

    def __init__(self, text: str) -> None:
        self._text = text.encode()

    def __repr__(self) -> str:
        return "ApiKey(...)"

    def matches(self, candidate: bytes) -> bool:
        """Return whether ``candidate`` is the key."""
        return hmac.compare_digest(candidate, self._text)

    def sessions(self, file: Path | None) -> Sessions:
        """Return the logins made with this key, kept in ``file``."""
        return Sessions(self._text, file)


def kept_key(data_dir: Path) -> tuple[str, bool]:
    """Return the key in the data folder, made if missing, and whether it is new. Raises AnemoneError if it cannot be used."""
    path = data_dir / FILE
    with remade(path):
        if not os.path.lexists(path):  # a link to a disk that is away is not replaced by another key
            text = secrets.token_urlsafe(32)
            write_private(path, f"{text}\n".encode())
            return text, True
        path.chmod(0o600)
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    if not is_key(text):
        raise AnemoneError(
            f"{path} has no valid API key; delete the file, and the server makes a new key at its next start"
        )
    return text, False


#: What a request's credentials are; "ended": those of a login that is not open any more, or never was.
Verdict: TypeAlias = Literal["right", "wrong", "ended", "missing"]


class Authenticator:
    """Checks the API key of requests; a client that sends wrong keys must wait, even with the right key."""

    def __init__(self, key: ApiKey | None, sessions: Path | None = None) -> None:
        """Without a ``key``, every request is accepted, with any credentials. ``sessions``: the file of the logins."""
        self._key = key
        self._sessions = key.sessions(sessions) if key is not None else None
        self._wrong = Buckets(_WRONG_A_MINUTE)

    def authenticate(self, scope: Scope) -> Verdict:
        """Check the request's credentials; count wrong ones. Raises ApiError if its client sent too many.

        Accepts a Bearer token, Basic credentials with the key as user name or as password, and the page's cookie. Ignores
        empty Basic credentials: clients of AUTOMATIC1111 send them if their user has entered nothing.
        """
        if self._key is None or self._sessions is None:
            return "right"
        scheme, _, token = (header(scope, b"authorization") or "").partition(" ")
        token = token.strip()
        if scheme.lower() == "bearer":
            return self._counted(scope, self._key.matches(token.encode("latin-1")))
        if scheme.lower() == "basic" and (parts := _basic(token)) != (b"", b""):
            # Always compare both, so that the time reveals nothing about either.
            user, password = (self._key.matches(part) for part in parts)
            return self._counted(scope, user or password)
        cookie = _session_cookie(scope)
        if cookie is None:
            return "missing"
        # Nobody guesses 256 random bits, so a cookie neither waits nor counts: a page that was left open sends its old one
        # again and again, and would lock its own address out.
        return "right" if self._sessions.is_open(cookie) else "ended"

    def log_in(self, scope: Scope, candidate: str) -> str | None:
        """Return the cookie of a new login if ``candidate`` is the key, "" if none is needed; None if it is wrong.

        Counts a wrong key, and ends the login that the request's cookie has. Raises ApiError if its client sent too many.
        """
        if self._key is None or self._sessions is None:
            return ""
        if self._counted(scope, self._key.matches(candidate.encode("utf-8", "surrogatepass"))) != "right":
            return None
        self.log_out(scope)
        return self._sessions.begin()

    def log_out(self, scope: Scope) -> None:
        """End the login of the request's cookie, if it has one; other logins stay."""
        cookie = _session_cookie(scope)
        if cookie is not None and self._sessions is not None:
            self._sessions.end(cookie)

    def _counted(self, scope: Scope, right: bool) -> Verdict:
        """Return the verdict on a key. Each counts as wrong until it is known to be right, so that no two are checked for one count."""
        client = client_of(scope)
        if (wait := self._wrong.take(client)) > 0:
            message = "too many wrong keys; wait, then send the right one"
            raise ApiError(429, "too_many_wrong_keys", message, headers={"retry-after": str(math.ceil(wait))})
        if not right:
            return "wrong"
        self._wrong.give_back(client)
        return "right"


def _basic(token: str) -> tuple[bytes, bytes]:
    """Return the user name and password of Basic credentials (RFC 7617).

    Without a colon, all of it is the user name: some clients send only a secret. A token that is not base64 becomes a user
    name that cannot be the key, so it counts as wrong.
    """
    try:
        decoded = base64.b64decode(token, validate=True)
    except ValueError:
        return b"not base64: " + token.encode("latin-1"), b""
    user, _, password = decoded.partition(b":")
    return user, password


def _session_cookie(scope: Scope) -> str | None:
    return cookie_parser(header(scope, b"cookie") or "").get(COOKIE)
