"""What a query has beyond a call's parameters is refused, not dropped."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.live_server import enqueue, over


def refused(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 422
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_an_unknown_parameter_is_named_with_those_that_there_are(client: httpx.Client) -> None:
    error = refused(client.get("/api/v1/jobs?limit=1&page=2"))
    assert (error["code"], error["field"]) == ("unknown_field", "page")
    assert error["accepted"] == "status, model, before, limit"
    assert error["message"].startswith("page is not a parameter of this call's query")


@pytest.mark.parametrize("path", ["/api/v1/capabilities", "/api/v1/models", "/api/v1/models/conversions"])
def test_a_call_without_parameters_takes_none(client: httpx.Client, path: str) -> None:
    assert refused(client.get(f"{path}?x="))["accepted"] == "none"
    assert client.head(f"{path}?x=").status_code == 422
    assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    "call", ["txt2img", "img2img", "inpaint", "outpaint", "variations", "upscale", "palette", "preprocess"]
)
def test_a_request_s_fields_in_the_query_are_told_to_go_into_the_body(client: httpx.Client, call: str) -> None:
    error = refused(client.post(f"/api/v1/{call}?steps=3", json={"prompt": "a circle"}))
    assert (error["field"], error["accepted"]) == ("steps", "none; fields are sent in the body")


def test_a_parameter_comes_once_unless_it_is_a_list(client: httpx.Client) -> None:
    job = over(client, enqueue(client, "a circle")["id"])
    error = refused(client.get(job["images"][0]["url"] + "?format=png&format=jpeg"))
    assert (error["code"], error["field"], error["accepted"]) == ("repeated_field", "format", "once")
    assert client.get("/api/v1/jobs?status=failed&status=queued").status_code == 200


def test_a_long_name_is_cut(client: httpx.Client) -> None:
    assert len(refused(client.get("/api/v1/jobs", params={"x" * 3000: "1"}))["field"]) <= 81
