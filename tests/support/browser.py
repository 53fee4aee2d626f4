"""Finds Chromium for tests and benchmarks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
#: Why the page's tests are skipped where there is no browser.
MISSING = "Chromium is not installed: apt-get install chromium"


def chromium() -> str | None:
    """Return the path of Chromium or Chrome; None if neither is installed."""
    found = next((path for path in map(shutil.which, _NAMES) if path is not None), None)
    return str(_MAC) if found is None and _MAC.exists() else found


def sandbox_flags() -> list[str]:
    """Return the flags without which Chromium does not start here: as root, in a container, it cannot make its sandbox."""
    return ["--no-sandbox"] if os.geteuid() == 0 else []
