from __future__ import annotations

from typing import Any

import httpx
import pytest


def refused(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = dict(answer.json()["error"])
    assert error["code"]
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("steps", 0, "1 to 150"),
        ("steps", 151, "1 to 150"),
        ("steps", -(10**30), "1 to 150"),
        ("guidance_scale", -0.1, "0 to 30"),
        ("guidance_scale", 31, "0 to 30"),
        ("seed", -2, "0 to 4294967295, or -1 for a random one"),
        ("seed", 2**32, "0 to 4294967295, or -1 for a random one"),
        ("n", 0, "1 to 10"),
        ("n", 11, "1 to 10"),
        ("scheduler", "best", "euler"),
        ("width", 1, "64 to 4096"),
        ("width", 20000, "64 to 4096"),
        ("height", 0, "64 to 4096"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_accepted(
    client: httpx.Client, field: str, value: Any, accepted: str
) -> None:
    error = refused(client.post("/api/v1/txt2img", json={"prompt": "a", field: value}), 422)
    assert error["field"] == field
    assert str(value) in error["message"]
    assert accepted in error["message"]
    assert accepted in error["accepted"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", 3),
        ("prompt", None),
        ("prompt", ["a"]),
        ("negative_prompt", {}),
        ("steps", "many"),
        ("steps", 2.5),
        ("steps", []),
        ("steps", True),
        ("guidance_scale", "x"),
        ("seed", "7x"),
        ("scheduler", 3),
        ("scheduler", ""),
        ("prompt", "x" * 10_001),
        ("prompt", "a\x00b"),
        ("strength", 0.5),
        ("mask", "x"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(client: httpx.Client, field: str, value: Any) -> None:
    error = refused(client.post("/api/v1/txt2img", json={"prompt": "a", field: value}), 422)
    assert error["field"] == field
    assert error["message"].startswith(field)


def test_a_missing_prompt_is_named(client: httpx.Client) -> None:
    assert refused(client.post("/api/v1/txt2img", json={}), 422)["field"] == "prompt"


@pytest.mark.parametrize("body", [b"{", b'{"prompt": "a",}', b'{"prompt": "a"', b"nonsense", b"\xff\xfe"])
def test_broken_json_is_told_to_be_so(client: httpx.Client, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    error = refused(client.post("/api/v1/txt2img", content=body, headers=headers), 400)
    assert "JSON" in error["message"]


@pytest.mark.parametrize("path", ["txt2img", "img2img"])
@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", None, ""),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}", None, ""),
        (b'{"prompt": "a", "image": "", "steps": NaN}', 422, "steps"),
        (b'{"prompt": "a", "image": "", "guidance_scale": 1e999}', 422, "guidance_scale"),
        (b'{"prompt": "a", "image": "", "steps": 1e999}', 422, "steps"),
        (b'{"prompt": "a", "seed": ' + b"9" * 100_000 + b"}", 400, "too many digits"),
        (b'{"prompt": "a", "image": "", "seed": ' + b"9" * 4000 + b"}", 422, "seed"),
        (b'{"prompt": "a\\ud800b", "image": ""}', 422, "prompt"),
        (b'{"prompt": "a\\u0000b", "image": ""}', 422, "prompt"),
        (b'{"prompt": "a", "image": "", "model": "\\ud800"}', 422, "model"),
        (b'{"prompt": "a", "image": "", "prompt": 1}', 422, "prompt"),
        (b'{"prompt": "a\xff"}', 400, "not UTF-8"),
        (b'{"prompt": "a"\x00}', 400, "delimiter"),
        (b'{"prompt": "a\x01"}', 400, "control character"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_some_parsers_let_pass_is_a_clients_error_too(
    client: httpx.Client, path: str, body: bytes, status: int | None, reason: str
) -> None:
    # txt2img has no image, which img2img misses.
    body = body if path == "img2img" else body.replace(b'"image": "", ', b"").replace(b', "image": ""', b"")
    answer = client.post(f"/api/v1/{path}", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in ((status,) if status else (400, 422)), answer.text
    assert reason in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"[]", b"3", b'"a"', b"null"])
def test_json_that_is_no_object_is_refused(client: httpx.Client, body: bytes) -> None:
    refused(client.post("/api/v1/txt2img", content=body, headers={"Content-Type": "application/json"}), 422)


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_a_body_of_another_type_is_refused(client: httpx.Client, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    refused(client.post("/api/v1/models", content=b'{"source": "a/b"}', headers=headers), 415)


def test_a_long_value_is_cut_in_the_answer(client: httpx.Client) -> None:
    answer = client.post("/api/v1/txt2img", json={"prompt": "a", "scheduler": "x" * 100_000})
    refused(answer, 422)
    assert len(answer.content) < 2000


def test_nothing_that_is_refused_becomes_a_job(client: httpx.Client) -> None:
    before = client.get("/api/v1/jobs").json()
    client.post("/api/v1/txt2img", json={"prompt": "a", "steps": 0})
    client.post("/api/v1/img2img", data={"prompt": "a"}, files={"image": b"text"})
    assert client.get("/api/v1/jobs").json() == before


@pytest.mark.parametrize(
    "path", ["/nothing", "/api/v1/nothing", "/api/v1/jobs/nothing", "/web/../cli.py", "/web/nothing"]
)
def test_an_unknown_path_answers_404_in_the_same_shape(client: httpx.Client, path: str) -> None:
    refused(client.get(path), 404)


def test_a_method_that_a_path_has_not_answers_405_in_the_same_shape(client: httpx.Client) -> None:
    refused(client.get("/api/v1/txt2img"), 405)
    refused(client.post("/healthz"), 405)
