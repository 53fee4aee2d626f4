"""The bodies of calls that take images: their schemas as JSON, where images are base64, and as a form, where they are files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema, create_model

from server.api.dialect import SCHEMA_TEMPLATE, body_limit, schema_reference
from server.api.forms import image_bytes
from server.api.request_body import RequestBody
from server.pipeline.decoding.file import READABLE
from server.pipeline.fields import RequestField, asked_fields
from server.security.body import LARGEST_BODY, USUAL_BODY

_Image = Annotated[bytes, PlainValidator(image_bytes), WithJsonSchema({"type": "string"})]


class Body:
    """The body of a call: fields, of which some are attachments."""

    def __init__(
        self,
        name: str,
        about: str,
        fields: Iterable[RequestField],
        required: Callable[[RequestField], bool],
        base: type[RequestBody] = RequestBody,
    ) -> None:
        """``name`` and ``about`` are of the schema; ``base`` has the fields that are not part of a request."""
        self.name, self.fields = name, tuple(fields)
        definitions = asked_fields(self.fields, RequestBody, required, _Image)
        self.model: type[RequestBody] = create_model(name, __base__=base, __doc__=about, **definitions)

    @property
    def attachments(self) -> tuple[str, ...]:
        """The fields that are attachments, without those of lists' items."""
        return tuple(field.name for field in self.fields if field.is_attachment)

    @property
    def schemas(self) -> dict[str, dict[str, Any]]:
        """The schemas of the OpenAPI document, by name: the body as JSON and as a form, and lists' items."""
        body = self.model.model_json_schema(ref_template=SCHEMA_TEMPLATE)
        items = body.pop("$defs", {})
        form = {**body, "title": f"{self.name}Form", "properties": dict(body["properties"])}
        for field in self.fields:
            described = body["properties"][field.name]
            if field.is_attachment:
                form["properties"][field.name] = {**described, "type": "string", "format": "binary"} | {
                    "description": f"{field.info.description}: a file, {READABLE}"
                }
                form["properties"][field.name].pop("anyOf", None)
                described["description"] = _as_base64(field)
            elif field.item is not None:
                form["properties"][field.name] = _as_text(
                    described, "as JSON, images by the names of files of the form"
                )
                for inner in field.item_fields:
                    if inner.is_attachment:
                        items[field.item.__name__]["properties"][inner.name]["description"] = _as_base64(inner)
            elif field.is_list:
                form["properties"][field.name] = {
                    **described,
                    "description": f"{described['description']}; separated by commas",
                }
        return {self.name: body, f"{self.name}Form": form, **items}

    @property
    def route(self) -> dict[str, Any]:
        """The ``openapi_extra`` of the route that takes the body."""
        content = {
            "application/json": {"schema": schema_reference(self.name)},
            "multipart/form-data": {"schema": schema_reference(f"{self.name}Form")},
        }
        return {**body_limit(LARGEST_BODY), "requestBody": {"required": True, "content": content}}


def _as_base64(field: RequestField) -> str:
    return f"{field.info.description}: {READABLE} as base64, a data: URI prefix allowed"


def _as_text(described: dict[str, Any], how: str) -> dict[str, Any]:
    about = f"{described['description']}; {how}"
    return {"type": "string", "maxLength": USUAL_BODY, "title": described["title"], "description": about}
