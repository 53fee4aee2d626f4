"""The page's login: the key once, a cookie from then on, which pictures in the page are fetched with as well."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from server.api.errors import ApiError, ErrorBody, hide_values
from server.api.native.upload import json_only
from server.security.gate import SESSION
from server.security.key import COOKIE, Door

router = APIRouter(tags=["session"])

_SECONDS = 30 * 24 * 3600
_ANSWERS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The body is not JSON"},
    401: {"model": ErrorBody, "description": "The key is not this server's"},
    415: {"model": ErrorBody, "description": "The body is not JSON by its type"},
    422: {"model": ErrorBody, "description": "The key is missing or no text"},
}


class SessionIn(BaseModel):
    """Who asks to be let in."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(description="The server's API key")


def _door(request: Request) -> Door:
    door: Door = request.app.state.door
    return door


KeyedDoor = Annotated[Door, Depends(_door)]


@router.post(
    SESSION,
    status_code=204,
    responses=_ANSWERS,
    dependencies=[Depends(json_only), Depends(hide_values)],
    summary="Log in",
)
def log_in(body: SessionIn, request: Request, door: KeyedDoor) -> Response:
    """Takes the key and sets a cookie that does for it, for thirty days; programs send the key itself with each request."""
    if not door.unlocks(request.scope, body.key):
        raise ApiError(401, "key_wrong", "the API key is not this server's", headers={"WWW-Authenticate": "Bearer"})
    answer = Response(status_code=204)
    if door.key is not None:
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, door.key.session, _SECONDS, httponly=True, samesite="strict", secure=secure)
    return answer


@router.delete(SESSION, status_code=204, summary="Log out")
def log_out() -> Response:
    """Takes the browser's cookie back."""
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
