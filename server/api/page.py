"""The web page at / and its files, which page/ builds; it loads nothing from other hosts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles

from server.api.dialect import OPEN

_WEB = Path(__file__).resolve().parent.parent / "web"
_FILES = StaticFiles(directory=_WEB)

router = APIRouter(include_in_schema=False)


def _served(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def file(request: Request) -> Response:
        answer = await _FILES.get_response(name, request.scope)
        # Browsers ask whether it is still the same, so that a page of an earlier version never meets this server.
        answer.headers["Cache-Control"] = "no-cache"
        return answer

    return file


for _path, _name in (("", "index.html"), *((name, name) for name in ("page.css", "page.js", "icon.svg"))):
    router.add_api_route(f"/{_path}", _served(_name), response_class=Response, openapi_extra=OPEN)
