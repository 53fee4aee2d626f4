"""The web page at / and its files; it loads nothing from other hosts."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from server.api.dialect import OPEN

_WEB = Path(__file__).resolve().parent.parent / "web"

router = APIRouter(include_in_schema=False)


@router.get("/", openapi_extra=OPEN)
def index() -> FileResponse:
    """Return the page."""
    return FileResponse(_WEB / "index.html", media_type="text/html")


@router.get("/page.css", openapi_extra=OPEN)
def style() -> FileResponse:
    """Return the page's styles."""
    return FileResponse(_WEB / "page.css", media_type="text/css")


@router.get("/page.js", openapi_extra=OPEN)
def script() -> FileResponse:
    """Return the page's script."""
    return FileResponse(_WEB / "page.js", media_type="text/javascript")


@router.get("/icon.svg", openapi_extra=OPEN)
def icon() -> FileResponse:
    """Return the page's icon."""
    return FileResponse(_WEB / "icon.svg", media_type="image/svg+xml")
