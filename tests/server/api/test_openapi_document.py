from __future__ import annotations

import json
import re

import httpx

from server.api.app import DIALECTS
from server.api.dialect import Dialects
from server.cli.openapi import EXPORTED, document


def test_the_exported_document_is_current() -> None:
    assert EXPORTED.read_text(encoding="utf-8") == document(), "run python -m server.cli.openapi"


def test_every_reference_of_the_document_leads_somewhere(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)):
        assert name in document["components"]["schemas"], name
    assert '"#/$defs/' not in json.dumps(document)


def test_every_error_has_the_shape_of_its_paths_dialect(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    dialects = Dialects(DIALECTS)
    for path, operations in document["paths"].items():
        body = dialects.of(path).error_body.__name__
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                if status >= "400" and path != "/readyz":
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": f"#/components/schemas/{body}"}, (method, path, status)


def test_bodies_are_described_field_by_field(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    for path in ("/api/v1/txt2img", "/api/v1/img2img"):
        assert document["paths"][path]["post"]["requestBody"]["content"]
    for field in document["components"]["schemas"]["Txt2Img"]["properties"].values():
        assert field["description"]


#: JSON Schema's keywords (draft 2020-12) that the document uses, and OpenAPI's own.
_KEYWORDS = {
    *("$ref", "type", "enum", "const", "anyOf", "oneOf", "allOf", "not", "title", "description", "default", "examples"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern"),
    *("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "properties", "required", "additionalProperties"),
    *("propertyNames", "minProperties", "maxProperties", "format", "contentMediaType", "contentEncoding", "deprecated"),
    *("readOnly", "writeOnly", "discriminator"),
}


def _unknown_keywords(schema: object, where: str) -> list[str]:
    if isinstance(schema, list):
        return [each for number, item in enumerate(schema) for each in _unknown_keywords(item, f"{where}.{number}")]
    if not isinstance(schema, dict):
        return []
    unknown = [f"{where}: {keyword}" for keyword in schema if keyword not in _KEYWORDS]
    for keyword in ("items", "prefixItems", "anyOf", "oneOf", "allOf", "not", "additionalProperties", "propertyNames"):
        unknown += _unknown_keywords(schema.get(keyword), f"{where}.{keyword}")
    for name, of_property in schema.get("properties", {}).items():
        unknown += _unknown_keywords(of_property, f"{where}.{name}")
    return unknown


def test_limits_are_written_in_the_words_of_json_schema(client: httpx.Client) -> None:
    """pydantic writes its own, such as ge, for a limit that follows a validator."""
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    parameters = {
        f"{method} {path} {parameter['name']}": parameter["schema"]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for parameter in operation.get("parameters", ())
    }
    assert parameters
    assert [each for where, schema in (schemas | parameters).items() for each in _unknown_keywords(schema, where)] == []
