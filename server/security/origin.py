"""Whose pages may change things here.

Any page its user opens can post to a server on localhost (ComfyUI's CVE-2024-10481); browsers say where a request comes
from, and programs that are no browser say nothing. The rule is that of Go's CrossOriginProtection.
"""

from __future__ import annotations

from starlette.types import Scope

from server.security.headers import header

READING = ("GET", "HEAD", "OPTIONS")


def is_preflight(scope: Scope) -> bool:
    """Whether a browser asks if a page of another site may send its request."""
    return scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method") is not None


def may_change(scope: Scope, allowed: tuple[str, ...]) -> bool:
    """Whether the request comes from this server's own page, from no page, or from one of the ``allowed`` origins.

    ``Origin: null`` is what a sandboxed frame of any site sends, and is refused.
    """
    site, origin = header(scope, b"sec-fetch-site"), header(scope, b"origin")
    if origin in allowed:
        return True
    if site is not None:
        return site in ("same-origin", "none") and origin != "null"
    return origin is None or origin.partition("://")[2] == header(scope, b"host")
