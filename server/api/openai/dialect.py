"""OpenAI's dialect."""

from __future__ import annotations

from typing import Any

from server.api.dialect import Dialect
from server.api.openai import PREFIX, images, models
from server.api.openai.errors import OpenAIError, render_error
from server.api.openai.fields import CALLS
from server.api.openai.reading import MOST_IMAGES


def _with_images(body: dict[str, Any], form: dict[str, Any]) -> None:
    """Describe the images of a call as its clients send them: several, by address in JSON."""
    base64 = body["properties"]["image"]
    address = {"type": "string", "description": "A data: URI; other addresses are not fetched"}
    item = {
        "type": "object",
        "properties": {"image_url": address},
        "required": ["image_url"],
        "additionalProperties": False,
    }
    body["properties"] |= {
        "image": {**base64, "description": f"{base64['description']}; or `images`"},
        "images": {"type": "array", "minItems": 1, "maxItems": MOST_IMAGES, "items": item, "title": "Images"},
    }
    body["required"] = [name for name in body["required"] if name != "image"]
    form["properties"]["image"] = {
        "type": "array",
        "minItems": 1,
        "maxItems": MOST_IMAGES,
        "items": {"type": "string", "format": "binary"},
        "title": "Image",
        "description": "One file or several, also as `image[]`",
    }
    if "mask" in body["properties"]:
        for schema, kind in ((body, "base64, or an object with image_url"), (form, "a file")):
            schema["properties"]["mask"]["description"] = (
                f"Transparent where the image is to change, as in OpenAI's API: {kind}"
            )


def _schemas() -> dict[str, Any]:
    """Return the schemas of the calls' bodies, which may have further fields."""
    schemas = {name: schema for call in CALLS for name, schema in call.body.schemas.items()}
    for call in CALLS:
        body, form = schemas[call.body.name], schemas[f"{call.body.name}Form"]
        for schema in (body, form):
            schema["additionalProperties"] = True
        if "image" in body["properties"]:
            _with_images(body, form)
    return schemas


OPENAI = Dialect(
    prefixes=(PREFIX,),
    routers=(images.router, models.router),
    render_error=render_error,
    error_body=OpenAIError,
    schemas=_schemas(),
    ignores_query=True,
)
