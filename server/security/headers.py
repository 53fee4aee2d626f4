"""The headers of every answer."""

from __future__ import annotations

from starlette.types import Scope

#: Names the job that an answer is about, in every dialect.
JOB_ID = "X-Job-Id"
#: Browsers must not guess an answer's type, show it in a page of another site, or load parts of our page from other hosts.
ALWAYS = (
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        b"require-trusted-types-for 'script'; trusted-types 'none'",
    ),
)


def header(scope: Scope, name: bytes) -> str | None:
    """Return the request's first header with this lower-case name, or None."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)
