"""However large a request is, one finding about it is made: each costs more than a field that is accepted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from server.api.native.images import BODIES
from server.api.native.model_schemas import ConversionIn
from server.api.native.session import SessionIn
from server.api.openai.fields import CALLS
from server.api.request_body import RequestBody
from server.cli.openapi import EXPORTED

Txt2Img, Img2Img = BODIES["txt2img"].model, BODIES["img2img"].model
JUNK: dict[str, Any] = {str(n): 1 for n in range(1000)}


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        (SessionIn, {"key": "a", **JUNK}),
        (Txt2Img, {"prompt": "a", **JUNK}),
        (Img2Img, {"prompt": "a", **JUNK}),
        (ConversionIn, {"source": "a/b", **JUNK}),
        (ConversionIn, {"source": "a/b", "sizes": [{"width": 8, "height": 8, **JUNK}] * 1000}),
        (ConversionIn, {"source": "a/b", "sizes": ["x"] * 1000}),
        (ConversionIn, {"source": "a/b", "batches": [7] * 1000}),
        (ConversionIn, {"source": "a/b", "controlnets": [7] * 1000}),
        (Txt2Img, {"prompt": "a", "controls": [{"image": "", **JUNK}] * 3}),
        (Txt2Img, {"prompt": "a", "controls": [{"image": 1}] * 3}),
        (Txt2Img, {"prompt": "a", "controls": [7] * 1000}),
        (Txt2Img, {"prompt": "a", "seeds": [True] * 8}),
        (Txt2Img, {"prompt": "a", "seeds": [True] * 1000}),
        (Txt2Img, {"prompt": "a", "seeds": "x," * 1000}),
    ],
)
def test_a_body_gets_one_finding(schema: type[RequestBody], body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        schema.model_validate(body)
    assert caught.value.error_count() == 1


def test_a_repeated_parameter_gets_one_finding(client: httpx.Client) -> None:
    error = client.get("/api/v1/jobs", params=[("status", "x")] * 300).json()["error"]
    assert (error["code"], error["field"]) == ("invalid_field", "status.0")
    assert client.get("/api/v1/jobs", params=[("status", "queued")] * 21).status_code == 422
    assert client.get("/api/v1/jobs", params={"model": "x" * 256}).json()["error"]["field"] == "model"


def test_a_long_query_is_refused(client: httpx.Client) -> None:
    answer = client.get("/healthz?" + "a&" * 3000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (414, "query_too_long")


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_a_text_that_is_too_long_is_answered_with_its_length(client: httpx.Client, field: str) -> None:
    answer = client.post("/api/v1/txt2img", json={"prompt": "a", field: "\x00" * 10_001})
    error = answer.json()["error"]
    assert error["message"] == f"{field} is 10001 characters; accepted: up to 10000 characters"
    assert error["value"] == "10001 characters"


def test_a_name_that_is_too_long_is_answered_with_its_length(client: httpx.Client) -> None:
    for path, body, field in (
        ("txt2img", {"prompt": "a", "model": "x" * 300}, "model"),
        ("txt2img", {"prompt": "a", "scheduler": "x" * 300}, "scheduler"),
        ("models", {"source": "a" * 600}, "source"),
        ("models", {"source": "a/b", "vae": "x" * 300}, "vae"),
    ):
        error = client.post(f"/api/v1/{path}", json=body).json()["error"]
        assert error["message"].startswith(f"{field} is {len(body[field])} characters; accepted: up to ")


@pytest.mark.parametrize("value", [json.loads("[" * 400 + "]" * 400), {"a": ["x" * 1000] * 200}, "x" * 200_000])
def test_a_wrong_value_of_any_size_is_shown_short(client: httpx.Client, value: Any) -> None:
    for field in ("prompt", "steps", "seeds", "rng", "priority"):
        answer = client.post("/api/v1/txt2img", json={"prompt": "a", field: value})
        assert answer.status_code == 422, answer.text
        assert len(answer.content) < 1000


def test_a_long_unknown_field_is_named_short(client: httpx.Client) -> None:
    error = client.post("/api/v1/txt2img", json={"prompt": "a", "x" * 200_000: 1}).json()["error"]
    assert error["code"] == "unknown_field"
    assert len(error["message"]) < 1200
    assert len(error["field"]) <= 80


def _parts(schema: dict[str, Any], schemas: dict[str, Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a schema and all schemas in it, each with its place."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield from _parts(schemas[name], schemas, name)
        return
    yield where, schema
    for name, inner in schema.get("properties", {}).items():
        yield from _parts(inner, schemas, f"{where}.{name}")
    inners = [*schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]
    for inner in inners:
        yield from _parts(inner, schemas, where)


def test_every_text_list_and_object_that_clients_send_has_a_limit() -> None:
    document = json.loads(Path(EXPORTED).read_text())
    schemas = document["components"]["schemas"]
    unlimited = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            sent = [(f"{path} {p['name']}", p["schema"]) for p in operation.get("parameters", []) if p["in"] == "query"]
            content = operation.get("requestBody", {}).get("content", {})
            sent += [(f"{method} {path}", body["schema"]) for body in content.values()]
            for where, part in (pair for place, schema in sent for pair in _parts(schema, schemas, place)):
                limits = {
                    "string": {"maxLength", "enum", "const", "pattern", "format"},
                    "array": {"maxItems"},
                    "object": {"additionalProperties"},
                }.get(part.get("type", ""))
                if limits is not None and not limits & set(part):
                    unlimited.add(where)
    images = {f"{body.name}.{name}" for body in BODIES.values() for name in body.attachments}
    images |= {f"{schema}.image" for schema in ("Control", "Palette", "Preprocess", "Upscale")}
    images |= {f"{call.body.name}.{name}" for call in CALLS for name in (*call.body.attachments, "images.image_url")}
    # AUTOMATIC1111's names.
    images |= {
        "Img2ImgBody.init_images",
        "Img2ImgBody.mask",
        "DetectBody.controlnet_images",
        "DetectBody.controlnet_input_images",
        "NamedImage.data",
    }
    images |= {f"{body}.image" for body in ("ExtrasBody", "ImageBody", "Infotext")}
    assert unlimited <= images, "only images are as large as the body may be"


WRONG: tuple[Any, ...] = (None, True, "x", "", [], {}, 1.5, -5, 10**30, [1], {"a": None}, "7.5")
#: What pydantic and Python would say, and a client that knows only JSON would not understand.
PYTHONS = re.compile("[Ii]nput|valid|parse|tuple|dictionary|None|True|False|pattern|^[A-Z]")


@pytest.mark.parametrize("value", WRONG)
def test_what_is_accepted_is_said_in_plain_words(client: httpx.Client, value: Any) -> None:
    """Of every field of every body, and of every parameter."""
    for path, schema, usual in (
        ("txt2img", Txt2Img, {"prompt": "a"}),
        ("img2img", Img2Img, {"prompt": "a", "image": "AAAA"}),
        ("models", ConversionIn, {"source": "not-there"}),
        ("session", SessionIn, {}),
    ):
        bodies: list[Any] = [{**usual, name: value} for name in schema.model_fields]
        for body in (value, *bodies):
            answer = client.post(f"/api/v1/{path}", json=body, headers={"Prefer": "respond-async"})
            if answer.status_code >= 400:
                error = answer.json()["error"]
                assert not PYTHONS.search(error["message"]), error
                assert not PYTHONS.search(error.get("accepted", "")), error
    for name in ("status", "model", "before", "limit"):
        answer = client.get("/api/v1/jobs", params={name: str(value)})
        assert answer.status_code == 200 or not PYTHONS.search(answer.json()["error"]["accepted"]), answer.text


def test_a_wrong_value_is_named_as_json_writes_it(client: httpx.Client) -> None:
    for value, words in ((None, "prompt is null; "), (True, "prompt is true; "), ([None, False], "[null, false]; ")):
        error = client.post("/api/v1/txt2img", json={"prompt": value}).json()["error"]
        assert words in error["message"]
        assert error["accepted"] == "text"


def test_an_unknown_field_is_answered_with_all_there_are(client: httpx.Client) -> None:
    error = client.post("/api/v1/txt2img", json={"prompt": "a", "cfg_scale": 5}).json()["error"]
    assert error["message"].startswith("cfg_scale is not a field of this request; accepted: ")
    assert set(error["accepted"].split(", ")) == set(Txt2Img.model_fields)


def test_null_stands_for_a_field_that_is_left_out(client: httpx.Client) -> None:
    body = {"prompt": "a", **dict.fromkeys(set(Txt2Img.model_fields) - {"prompt"})}
    job = client.post("/api/v1/txt2img", json=body, headers={"Prefer": "respond-async"}).json()
    assert job["priority"] == "normal"
