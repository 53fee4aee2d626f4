"""The API key, kept in the data folder; programs send it as a Bearer token or by Basic, browsers as a cookie.

The file contains the key itself, not a hash, and only its owner can read it: the owner needs the key for the next client,
and anyone who can read the folder can read the images anyway. The cookie is an HMAC of the key, so replacing the key invalidates it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from starlette.requests import cookie_parser
from starlette.types import Scope

from converter.errors import AnemoneError
from server.security.headers import header
from server.security.rate import Buckets, client_of

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
        self.session = hmac.new(self._text, b"anemone session", hashlib.sha256).hexdigest()

    def __repr__(self) -> str:
        return "ApiKey(...)"

    def matches(self, candidate: bytes) -> bool:
        """Return whether ``candidate`` is the key."""
        return hmac.compare_digest(candidate, self._text)

    def is_session(self, cookie: str) -> bool:
        """Return whether a cookie's value was made from the key."""
        return hmac.compare_digest(cookie.encode("utf-8", "surrogatepass"), self.session.encode())


def kept_key(data_dir: Path) -> tuple[str, bool]:
    """Return the key in the data folder, made if missing, and whether it is new. Raises AnemoneError if it is not valid."""
    path = data_dir / FILE
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        os.chmod(path, 0o600)
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        if not is_key(text):
            raise AnemoneError(
                f"{path} has no valid API key; delete the file, and the server makes a new key at its next start"
            ) from None
        return text, False
    text = secrets.token_urlsafe(32)
    with os.fdopen(file, "w") as out:
        out.write(text + "\n")
    return text, True


class Authenticator:
    """Checks the API key of requests; a client that sends wrong keys must wait, even with the right key."""

    def __init__(self, key: ApiKey | None) -> None:
        """Without a ``key``, every request is accepted, with any credentials."""
        self.key = key
        self._wrong = Buckets(_WRONG_A_MINUTE)

    def wait(self, scope: Scope) -> float:
        """Return the seconds that the request's client must wait after wrong keys, usually 0."""
        return self._wrong.wait(client_of(scope)) if self.key is not None else 0.0

    def authenticate(self, scope: Scope) -> bool | None:
        """Return whether the request's credentials are right, or None if it has no credentials; count wrong ones.

        Accepts a Bearer token, Basic credentials with the key as user name or as password, and the page's cookie. Ignores
        empty Basic credentials: clients of AUTOMATIC1111 send them if their user has entered nothing.
        """
        if self.key is None:
            return True
        scheme, _, token = (header(scope, b"authorization") or "").partition(" ")
        token = token.strip()
        if scheme.lower() == "bearer":
            return self._counted(scope, self.key.matches(token.encode("latin-1")))
        if scheme.lower() == "basic" and (parts := _basic(token)) != (b"", b""):
            # Always compare both, so that the time reveals nothing about either.
            user, password = (self.key.matches(part) for part in parts)
            return self._counted(scope, user or password)
        cookie = _session_cookie(scope)
        return None if cookie is None else self._counted(scope, self.key.is_session(cookie))

    def check(self, scope: Scope, candidate: str) -> bool:
        """Return whether ``candidate``, typed into the page, is the key; count a wrong one."""
        return self.key is None or self._counted(scope, self.key.matches(candidate.encode("utf-8", "surrogatepass")))

    def _counted(self, scope: Scope, right: bool) -> bool:
        if not right:
            self._wrong.take(client_of(scope))
        return right


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
