"""The page at /: everything it needs comes from here."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

_WEB = Path(__file__).resolve().parent.parent / "web"

router = APIRouter(include_in_schema=False)


@router.get("/")
def index() -> FileResponse:
    """The page."""
    return FileResponse(_WEB / "index.html", media_type="text/html")


@router.get("/page.css")
def style() -> FileResponse:
    """How it looks."""
    return FileResponse(_WEB / "page.css", media_type="text/css")


@router.get("/page.js")
def script() -> FileResponse:
    """What it does."""
    return FileResponse(_WEB / "page.js", media_type="text/javascript")


@router.get("/icon.svg")
def icon() -> FileResponse:
    """Its sign."""
    return FileResponse(_WEB / "icon.svg", media_type="image/svg+xml")
