"""Exports the API's OpenAPI document to openapi/anemone.json: ``python -m server.cli.openapi``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

from server.api.app import create_app

EXPORTED = Path(__file__).resolve().parents[2] / "openapi" / "anemone.json"


def _never_opened() -> NoReturn:
    raise RuntimeError("this app only serves to write its document")


def document() -> str:
    """Return the document in its exported form: JSON, indented by two spaces, with a final newline."""
    return json.dumps(create_app(_never_opened).openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    EXPORTED.write_text(document(), encoding="utf-8")
