"""Headers that every answer carries."""

from __future__ import annotations

from starlette.types import Scope

#: Browsers neither guess what an answer is, nor show it in another site's page, nor load anything for ours from elsewhere.
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
    """A request's header, the first of that name (in lower case); None where there is none."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)
