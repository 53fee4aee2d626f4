"""The API key: made once and kept in the data folder; programs send it as a Bearer token or by Basic, browsers as a cookie.

The file holds the key itself, not a hash, and only its owner can read it: the owner needs the key for the next client, and
whoever can read the folder has the images already. The cookie is an HMAC of the key, so replacing the key invalidates it.
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
#: Wrong keys a minute from one client, after which all its requests are refused.
_WRONG_A_MINUTE = 10
#: Characters; a shorter key could be guessed over a network.
SHORTEST = 16


def is_key(text: str) -> bool:
    """Return whether a text can be a key: long enough to resist guessing, and visible ASCII that fits into a header."""
    return len(text) >= SHORTEST and text.isascii() and text.isprintable() and " " not in text


class ApiKey:
    """A key that is compared in constant time and never printed by accident."""

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
    """Return the key in the data folder, and whether it was made just now. Raises AnemoneError if the file has no valid key."""
    path = data_dir / FILE
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        os.chmod(path, 0o600)
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        if not is_key(text):
            raise AnemoneError(
                f"{path} has no valid API key; delete it to have a new one made at the next start"
            ) from None
        return text, False
    text = secrets.token_urlsafe(32)
    with os.fdopen(file, "w") as out:
        out.write(text + "\n")
    return text, True


class Authenticator:
    """Checks the API key of requests; a client that sends wrong ones must wait, even with the right one."""

    def __init__(self, key: ApiKey | None) -> None:
        """Without a key, every request is let in, whatever its credentials."""
        self.key = key
        self._wrong = Buckets(_WRONG_A_MINUTE)

    def wait(self, scope: Scope) -> float:
        """Return the seconds that the request's client must still wait after wrong keys, usually 0."""
        return self._wrong.wait(client_of(scope)) if self.key is not None else 0.0

    def authenticate(self, scope: Scope) -> bool | None:
        """Return whether the request's credentials hold the key, None where it has none. Wrong ones are counted.

        Accepts a Bearer token, Basic credentials with the key as user name or as password, and the page's cookie. Empty
        Basic credentials are none: clients of AUTOMATIC1111 send them when their user has entered nothing.
        """
        if self.key is None:
            return True
        scheme, _, token = (header(scope, b"authorization") or "").partition(" ")
        token = token.strip()
        if scheme.lower() == "bearer":
            return self._counted(scope, self.key.matches(token.encode("latin-1")))
        if scheme.lower() == "basic" and (parts := _basic(token)) != (b"", b""):
            # Both are always compared, so that the time tells nothing about either.
            user, password = (self.key.matches(part) for part in parts)
            return self._counted(scope, user or password)
        cookie = _session_cookie(scope)
        return None if cookie is None else self._counted(scope, self.key.is_session(cookie))

    def check(self, scope: Scope, candidate: str) -> bool:
        """Return whether ``candidate``, typed into the page, is the key. A wrong one is counted."""
        return self.key is None or self._counted(scope, self.key.matches(candidate.encode("utf-8", "surrogatepass")))

    def _counted(self, scope: Scope, right: bool) -> bool:
        if not right:
            self._wrong.take(client_of(scope))
        return right


def _basic(token: str) -> tuple[bytes, bytes]:
    """Return the user name and password of Basic credentials (RFC 7617).

    Without a colon all of it is the user name: some clients send a single secret. A token that is not base64 is returned
    undecoded as the user name, and cannot be the key: it counts as a wrong one.
    """
    try:
        decoded = base64.b64decode(token, validate=True)
    except ValueError:
        return b"not base64: " + token.encode("latin-1"), b""
    user, _, password = decoded.partition(b":")
    return user, password


def _session_cookie(scope: Scope) -> str | None:
    return cookie_parser(header(scope, b"cookie") or "").get(COOKIE)
