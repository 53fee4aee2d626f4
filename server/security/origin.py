"""Limits requests that change something to pages of this server and of allowed sites.

Any page that a user opens can post to a server on localhost (ComfyUI's CVE-2024-10481). Browsers send the origin of a
request; other programs do not. The rule is that of Go's CrossOriginProtection.
"""

from __future__ import annotations

from starlette.types import Scope

from server.security.headers import header

READING = ("GET", "HEAD", "OPTIONS")


def is_preflight(scope: Scope) -> bool:
    """Return whether the request is a CORS preflight."""
    return scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method") is not None


def may_change(scope: Scope, allowed: tuple[str, ...]) -> bool:
    """Return whether the request comes from this server's own page, from no page, or from one of the ``allowed`` origins.

    ``Origin: null``, which a sandboxed frame of any site sends, is refused. ``Sec-Fetch-Site`` goes before the comparison with
    the host: pages cannot set it, and behind a proxy the host may be another than the browser's.
    """
    site, origin, host = (header(scope, name) for name in (b"sec-fetch-site", b"origin", b"host"))
    if origin in allowed:
        return True
    if site is not None:
        return site in ("same-origin", "none") and origin != "null"
    return origin in (None, f"http://{host}", f"https://{host}")
