"""The JSON schemas of tools' arguments, as short as they can be: a language model reads them with every conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.api.body import Body
from server.api.mcp.addresses import ABOUT
from server.api.request_body import RequestBody

_NULL = {"type": "null"}


def body_schema(body: Body) -> dict[str, Any]:
    """Return the schema of a body whose images are base64, or addresses."""
    schemas = body.schemas
    for schema, fields in (
        (body.name, body.fields),
        *((f.item.__name__, f.item_fields) for f in body.fields if f.item),
    ):
        for field in fields:
            if field.is_attachment:
                schemas[schema]["properties"][field.name]["description"] += f"; {ABOUT}"
    return _object(schemas[body.name], {f"#/components/schemas/{name}": schema for name, schema in schemas.items()})


def model_schema(model: type[RequestBody]) -> dict[str, Any]:
    """Return the schema of a model without parts."""
    return _object(model.model_json_schema(), {})


def _object(schema: Mapping[str, Any], parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    required = schema.get("required", [])
    names = (*required, *(name for name in schema["properties"] if name not in required))
    fields = {name: _value(schema["properties"][name], parts) for name in names}
    return {
        "type": "object", "properties": fields, **({"required": required} if required else {}),
        "additionalProperties": False,
    }  # fmt: skip


def _value(schema: Mapping[str, Any], parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a field's schema with parts in place of references: not every client follows those.

    Titles repeat the names, and that null means the same as nothing is left unsaid.
    """
    if "$ref" in schema:
        return _object(parts[schema["$ref"]], parts)
    kept = {key: value for key, value in schema.items() if key not in ("title", "anyOf")}
    if kept.get("default", 0) is None:
        del kept["default"]
    if "items" in kept:
        kept["items"] = _value(kept["items"], parts)
    kinds = [_value(kind, parts) for kind in schema.get("anyOf", ()) if kind != _NULL]
    if len(kinds) == 1:
        return {**kinds[0], **kept}
    return {**kept, "anyOf": kinds} if kinds else kept
