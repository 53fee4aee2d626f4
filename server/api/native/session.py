"""The page's login: checks the API key once and sets a cookie, which the browser also sends for the page's images."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from server.api.dependencies import Keys
from server.api.dialect import OPEN, body_limit
from server.api.errors import hide_values
from server.api.forms import json_only
from server.api.native import PREFIX
from server.api.native.errors import error
from server.api.request_body import RequestBody
from server.errors import ApiError
from server.pipeline.limits import Characters
from server.security.key import COOKIE
from server.security.sessions import SESSION_SECONDS

router = APIRouter(prefix=PREFIX, tags=["session"])

#: Bytes of a login, which needs no key.
_LARGEST = 4 * 2**10
_ANSWERS: dict[int | str, dict[str, Any]] = {
    400: error("The body is not JSON"),
    401: error("The key is wrong"),
    415: error("The body's type is not application/json"),
    422: error("The key is missing or not a string"),
    429: error("The client sent too many wrong keys; Retry-After says when to retry"),
}


class SessionIn(RequestBody):
    """A login."""

    key: Annotated[str, Characters(1000)] = Field(description="The server's API key")


# Both run in the event loop, as every other use of the authenticator; storing a login takes 7 ms, and only who has the key causes it.
@router.post(
    "/session",
    status_code=204,
    responses=_ANSWERS,
    openapi_extra={**OPEN, **body_limit(_LARGEST)},
    dependencies=[Depends(json_only), Depends(hide_values)],
    summary="Log in",
)
async def log_in(body: SessionIn, request: Request, keys: Keys) -> Response:
    """Sets a cookie that replaces the key for thirty days; programs send the key itself with each request."""
    cookie = keys.log_in(request.scope, body.key)
    if cookie is None:
        raise ApiError(401, "key_wrong", "the API key is wrong", headers={"WWW-Authenticate": "Bearer"})
    answer = Response(status_code=204)
    if cookie:
        # Behind a proxy that ends TLS, only the page's origin says that the browser uses HTTPS.
        secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
        answer.set_cookie(COOKIE, cookie, SESSION_SECONDS, httponly=True, samesite="strict", secure=secure)
    return answer


@router.delete("/session", status_code=204, openapi_extra=OPEN, summary="Log out")
async def log_out(request: Request, keys: Keys) -> Response:
    """Ends this browser's login, on the server too; other browsers stay logged in."""
    keys.log_out(request.scope)
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
