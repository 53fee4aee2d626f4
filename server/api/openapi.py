"""The OpenAPI document: what FastAPI cannot see of the app, and its export: ``python -m server.api.openapi``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from server.api.native.schemas import Img2Img, Img2ImgJson
from server.security.gate import SESSION

EXPORTED = Path(__file__).resolve().parents[2] / "openapi" / "anemone.json"

#: What the gate may answer to any request.
_GATE = {
    "401": "The server needs its API key, and the request shows none or a wrong one",
    "403": "Wrong Host, or a page of another site",
    "429": "Too many requests or too many wrong keys; Retry-After says when to come back",
}
#: And to one with a body.
_BODY = {"408": "The body stopped coming", "413": "The body is too large"}
_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
_FASTAPIS = "HTTPValidationError"
_NO_KEY = ("/healthz", "/readyz", SESSION)


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the key, the gate's answers, and the schemas of bodies that routes read themselves."""
    schemas = document["components"]["schemas"]
    for model in (Img2Img, Img2ImgJson):
        schemas[model.__name__] = model.model_json_schema()
    form = schemas["Img2ImgForm"] = Img2ImgJson.model_json_schema()
    form["properties"]["image"] = {"type": "string", "format": "binary", "description": "PNG, JPEG or WebP"}
    form["title"], form["description"] = "Img2ImgForm", "img2img as a form with a file."
    for replaced in (_FASTAPIS, "ValidationError"):
        schemas.pop(replaced, None)
    document["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "The API key, where the server needs one"}
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            # The empty choice: on the machine itself, a server asks for no key unless it is told to.
            operation["security"] = [{}] if path in _NO_KEY else [{}, {"key": []}]
            answers = {**_GATE, **(_BODY if method in ("post", "put", "patch") else {})}
            for status, answer in operation["responses"].items():
                # FastAPI gives the errors of a stream of events the stream's type, and bad requests its own shape.
                content = answer.get("content", {})
                if status >= "400" and ("text/event-stream" in content or _FASTAPIS in str(content)):
                    answer["content"] = _ERROR
            for status, description in answers.items():
                operation["responses"].setdefault(status, {"description": description, "content": _ERROR})
    return document


def _never_opened() -> NoReturn:
    raise RuntimeError("this app is for its document only")


def document() -> str:
    """The document as it is exported: JSON, two spaces, a last newline."""
    from server.api.app import create_app

    return json.dumps(create_app(_never_opened).openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    EXPORTED.write_text(document(), encoding="utf-8")
