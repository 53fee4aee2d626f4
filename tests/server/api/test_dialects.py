"""A second dialect, registered like one with its own folder: all its errors have its own form."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from server.api.app import DIALECTS, create_app
from server.api.dialect import OPEN, Dialect, body_limit
from server.errors import ApiError
from server.pipeline.request import RequestError
from server.security.body import LARGEST_BODY
from server.security.gate import Access
from server.security.hosts import Hosts
from server.security.key import ApiKey, Authenticator
from tests.support.asgi_client import LAN, Answer, ask

KEY = "a-key-for-tests-0123456789"
JSON = {"content-type": "application/json"}


class OtherError(BaseModel):
    detail: str
    type: str
    param: str | None


class Body(BaseModel):
    n: int


router = APIRouter(prefix="/other")


@router.post("/images")
async def images(body: Body) -> dict[str, int]:
    if body.n == 0:
        raise RequestError("n", body.n, "1 to 8")
    if body.n == 9:
        raise ApiError(429, "queue_full", "the queue is full", headers={"Retry-After": "7"})
    if body.n == 500:
        raise RuntimeError("a bug")
    return {"n": body.n}


@router.post("/uploads/{name}", openapi_extra=body_limit(2**20))
async def upload(name: str, request: Request) -> int:
    return len(await request.body())


@router.get("/ping", openapi_extra=OPEN)
async def ping() -> dict[str, str]:
    return {}


def render(error: ApiError) -> JSONResponse:
    body = {"detail": error.message, "type": error.code, "param": error.field}
    # This dialect has no 422.
    return JSONResponse(
        body, 400 if error.status == 422 else error.status, {**error.headers, "x-should-retry": "false"}
    )


OTHER = Dialect(prefixes=("/other",), routers=(router,), render_error=render, error_body=OtherError)


def never_opened() -> NoReturn:
    raise AssertionError("this app never starts")


def app(access: Access | None = None) -> FastAPI:
    return create_app(never_opened, access, dialects=(*DIALECTS, OTHER))


def keyed() -> FastAPI:
    return app(Access(Hosts(True), authenticator=Authenticator(ApiKey(KEY))))


def other(answer: Answer, status: int) -> dict[str, Any]:
    assert answer.status == status, answer.body
    body = dict(json.loads(answer.body))
    assert set(body) == {"detail", "type", "param"}, body
    assert answer.header("x-should-retry") == "false"
    assert answer.header("x-content-type-options") == "nosniff"
    return body


@pytest.mark.parametrize(("body", "code", "field"), [
    (b"{}", "missing_field", "n"),
    (b'{"n": "x"}', "invalid_field", "n"),
    (b'{"n": 0}', "invalid_field", "n"),
    (b"{", "invalid_json", None),
])  # fmt: skip
def test_bad_bodies(body: bytes, code: str, field: str | None) -> None:
    error = other(ask(app(), "POST", "/other/images", JSON, body=[body]), 400)
    assert (error["type"], error["param"]) == (code, field)


def test_an_error_of_a_route_keeps_its_headers() -> None:
    answer = ask(app(), "POST", "/other/images", JSON, body=[b'{"n": 9}'])
    assert other(answer, 429)["type"] == "queue_full"
    assert answer.header("retry-after") == "7"


def test_missing_and_wrong_keys() -> None:
    assert other(ask(keyed(), "POST", "/other/images"), 401)["type"] == "key_missing"
    answer = ask(keyed(), "POST", "/other/images", {"authorization": "Bearer wrong"})
    assert other(answer, 401)["type"] == "key_wrong"
    assert answer.header("www-authenticate") == "Bearer"
    assert ask(keyed(), path="/other/ping").status == 200


def test_wrong_hosts_and_origins() -> None:
    assert other(ask(app(), path="/other/ping", headers={"host": "evil.example"}), 403)["type"] == "wrong_host"
    answer = ask(app(), "POST", "/other/images", {"origin": "https://evil.example"})
    assert other(answer, 403)["type"] == "cross_site"


def test_too_many_requests() -> None:
    limited = app(Access(Hosts(True), rate=1))
    assert ask(limited, path="/other/ping", client=LAN).status == 200
    answer = ask(limited, path="/other/ping", client=LAN)
    assert other(answer, 429)["type"] == "too_many_requests"
    assert answer.header("retry-after") == "60"


def test_bodies_too_large_or_too_slow() -> None:
    announced = {**JSON, "content-length": str(LARGEST_BODY + 1)}
    assert other(ask(app(), "POST", "/other/images", announced, body=[b" "]), 413)["type"] == "too_large"
    growing = [b" " * 2**20] * (LARGEST_BODY // 2**20 + 1)
    assert other(ask(app(), "POST", "/other/images", JSON, body=growing), 413)["type"] == "too_large"
    hasty = app(Access(pause_seconds=0.01))
    assert other(ask(hasty, "POST", "/other/images", JSON, body=[b"{", None]), 408)["type"] == "too_slow"


def test_a_route_states_how_large_its_bodies_may_be() -> None:
    assert ask(app(), "POST", "/other/uploads/x", body=[b" " * 2**20]).status == 200
    error = other(ask(app(), "POST", "/other/uploads/x", body=[b" " * 2**20, b" "]), 413)
    assert error["detail"] == "the body is too large; accepted: up to 1 MB"
    answers = app().openapi()["paths"]["/other/uploads/{name}"]["post"]["responses"]
    assert answers["413"]["description"] == "The body is larger than 1 MB"


def test_unknown_paths_and_methods() -> None:
    assert other(ask(app(), path="/other/nothing"), 404)["type"] == "not_found"
    answer = ask(app(), "DELETE", "/other/images")
    assert other(answer, 405)["type"] == "method_not_allowed"
    assert answer.header("allow") == "POST"


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/api/v1/nothing", "/others/images", "/api/v1/other/images", "*", "http://localhost/"]
)
def test_other_paths_keep_the_native_shape(path: str) -> None:
    answer = ask(app(), "DELETE", path)
    assert answer.status in (404, 405)
    assert answer.error()["message"]


def test_an_internal_error_has_the_shape_too() -> None:
    async def logged(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError, match="a bug"):  # Starlette raises it again, for the server's log
            await app()(scope, receive, send)

    answer = ask(logged, "POST", "/other/images", JSON, body=[b'{"n": 500}'])
    assert (answer.status, json.loads(answer.body)["type"]) == (500, "internal")


def test_the_document_has_each_dialects_errors() -> None:
    document = app().openapi()
    assert document["components"]["schemas"]["OtherError"]["properties"].keys() == {"detail", "type", "param"}
    for path, body in (("/other/images", "OtherError"), ("/api/v1/txt2img", "ErrorBody")):
        answers = document["paths"][path]["post"]["responses"]
        for status in ("401", "403", "408", "413", "422", "429"):
            schema = answers[status]["content"]["application/json"]["schema"]
            assert schema == {"$ref": f"#/components/schemas/{body}"}, (path, status)
    assert document["paths"]["/other/ping"]["get"]["security"] == [{}]
    assert {"basic": []} in document["paths"]["/other/images"]["post"]["security"]
