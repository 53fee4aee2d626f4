"""The page at /: everything it needs comes from here."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from server.errors import ApiError

_WEB = Path(__file__).resolve().parent.parent / "web"
_FILES = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

router = APIRouter(include_in_schema=False)


@router.get("/")
def index() -> FileResponse:
    """The page."""
    return FileResponse(_WEB / "index.html", media_type="text/html")


@router.get("/web/{name}")
def asset(name: str) -> FileResponse:
    """One of the page's files."""
    if name not in _FILES:
        raise ApiError(404, "not_found", f"there is no {name[:40]!r}")
    return FileResponse(_WEB / name, media_type=_FILES[name])
