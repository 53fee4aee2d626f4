"""Headers of every answer."""

from __future__ import annotations

from starlette.types import Scope

#: Browsers must not guess an answer's type, show it in another site's page, or load anything for our page from elsewhere.
ALWAYS = (
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
)


def header(scope: Scope, name: bytes) -> str | None:
    """Return a request's first header of that name (in lower case), or None."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)
