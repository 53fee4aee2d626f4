"""The API key: made once, kept in the data folder, shown by programs as a Bearer token and by browsers as a cookie.

It is kept as it is, readable by its owner only, and not as a hash: the owner needs it again for the next client, and
whoever can read the folder has the pictures already. The cookie holds no key but what only one who has it can compute, so
it ends when the key is replaced.
"""

from __future__ import annotations

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
#: Wrong keys a minute from one client, after which it is not even listened to.
_WRONG_A_MINUTE = 10
#: Characters; a shorter key could be guessed over a network.
SHORTEST = 16


def is_key(text: str) -> bool:
    """Whether a text does as a key: long enough, and such that every client can send it in a header."""
    return len(text) >= SHORTEST and text.isascii() and text.isprintable() and " " not in text


class ApiKey:
    """A key that is compared in constant time and never printed by accident."""

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self.session = hmac.new(self._text, b"anemone session", hashlib.sha256).hexdigest()

    def __repr__(self) -> str:
        return "ApiKey(...)"

    def matches(self, given: str) -> bool:
        """Whether ``given`` is the key."""
        return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self._text)

    def is_session(self, cookie: str) -> bool:
        """Whether a cookie's value was made from the key."""
        return hmac.compare_digest(cookie.encode("utf-8", "surrogatepass"), self.session.encode())


def kept_key(data_dir: Path) -> tuple[str, bool]:
    """The key in the data folder, and whether it was made just now. Raises AnemoneError where its file is no key's."""
    path = data_dir / FILE
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        os.chmod(path, 0o600)
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        if not is_key(text):
            raise AnemoneError(f"{path} holds no API key; remove it, and one is made at the next start") from None
        return text, False
    text = secrets.token_urlsafe(32)
    with os.fdopen(file, "w") as out:
        out.write(text + "\n")
    return text, True


class Door:
    """Lets in who shows the key; a client that shows wrong ones is made to wait, whatever it shows then."""

    def __init__(self, key: ApiKey | None) -> None:
        self.key = key
        self._wrong = Buckets(_WRONG_A_MINUTE)

    def wait(self, scope: Scope) -> float:
        """Seconds until the request's client is listened to again, usually 0."""
        return self._wrong.wait(client_of(scope)) if self.key is not None else 0.0

    def opens(self, scope: Scope) -> bool | None:
        """Whether the request shows the key, as a header or cookie; None where it shows nothing. A wrong one counts."""
        if self.key is None:
            return True
        scheme, _, token = (header(scope, b"authorization") or "").partition(" ")
        if scheme.lower() == "bearer":
            return self._counted(scope, self.key.matches(token.strip()))
        cookie = _session_cookie(scope)
        return None if cookie is None else self._counted(scope, self.key.is_session(cookie))

    def unlocks(self, scope: Scope, given: str) -> bool:
        """Whether ``given``, typed into the page, is the key. A wrong one counts."""
        return self.key is None or self._counted(scope, self.key.matches(given))

    def _counted(self, scope: Scope, right: bool) -> bool:
        if not right:
            self._wrong.take(client_of(scope))
        return right


def _session_cookie(scope: Scope) -> str | None:
    return cookie_parser(header(scope, b"cookie") or "").get(COOKIE)
