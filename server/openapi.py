"""The exported OpenAPI document: ``python -m server.openapi`` writes openapi/anemone.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

from server.app import create_app

EXPORTED = Path(__file__).resolve().parent.parent / "openapi" / "anemone.json"


def _never_opened() -> NoReturn:
    raise RuntimeError("this app is for its document only")


def document() -> str:
    """The document as it is exported: JSON, two spaces, a last newline."""
    return json.dumps(create_app(_never_opened).openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    EXPORTED.write_text(document(), encoding="utf-8")
