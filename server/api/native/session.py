"""The page's login: checks the API key once and sets a cookie, which the browser also sends for the page's images."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from server.api.dialect import OPEN
from server.api.errors import hide_values
from server.api.native import PREFIX
from server.api.native.errors import error
from server.api.native.upload import json_only
from server.errors import ApiError
from server.security.key import COOKIE, Authenticator

router = APIRouter(prefix=PREFIX, tags=["session"])

_SESSION_SECONDS = 30 * 24 * 3600
_ANSWERS: dict[int | str, dict[str, Any]] = {
    400: error("The body is not JSON"),
    401: error("The key is wrong"),
    415: error("The body's type is not application/json"),
    422: error("The key is missing or not a string"),
}


class SessionIn(BaseModel):
    """A login."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(description="The server's API key")


def _authenticator(request: Request) -> Authenticator:
    authenticator: Authenticator = request.app.state.authenticator
    return authenticator


Keys = Annotated[Authenticator, Depends(_authenticator)]


@router.post(
    "/session",
    status_code=204,
    responses=_ANSWERS,
    openapi_extra=OPEN,
    dependencies=[Depends(json_only), Depends(hide_values)],
    summary="Log in",
)
def log_in(body: SessionIn, request: Request, keys: Keys) -> Response:
    """Sets a cookie that replaces the key for thirty days; programs send the key itself with each request."""
    if not keys.check(request.scope, body.key):
        raise ApiError(401, "key_wrong", "the API key is wrong", headers={"WWW-Authenticate": "Bearer"})
    answer = Response(status_code=204)
    if keys.key is not None:
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, keys.key.session, _SESSION_SECONDS, httponly=True, samesite="strict", secure=secure)
    return answer


@router.delete("/session", status_code=204, openapi_extra=OPEN, summary="Log out")
def log_out() -> Response:
    """Deletes the browser's cookie."""
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
