"""Who may use /mcp, and with what: the rules of every other path, told in MCP's own form."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from server.api.app import create_app
from server.security.body import LARGEST_BODY
from server.security.gate import Access
from server.security.key import ApiKey, Authenticator
from tests.support.asgi_client import ask
from tests.support.live_server import live
from tests.support.mcp_client import ACCEPT, NEW, OLD, VERSION, sent, with_client

KEY = "a-key-for-tests-0123456789"


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Return the error as the native API tells it, which the answer has in JSON-RPC's form."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert (body["jsonrpc"], body["id"], type(body["error"]["code"])) == ("2.0", None, int)
    assert body["error"]["message"] == body["error"]["data"]["message"]
    return dict(body["error"]["data"])


async def count(client: Client) -> int:
    return len((await client.list_tools()).tools)


@pytest.mark.slow
def test_a_wrong_key_gets_nothing_and_the_right_one_everything(tmp_path: Path) -> None:
    with live(tmp_path, ready=False, access=Access(authenticator=Authenticator(ApiKey(KEY)))) as server:
        for mode in (OLD, "auto"):
            with pytest.raises(MCPError, match="the API key is wrong"):
                with_client(server, count, mode, key="wrong")
            with pytest.raises(MCPError, match="this server needs its API key"):
                with_client(server, count, mode)
            assert with_client(server, count, mode, key=KEY) == 6


@pytest.mark.parametrize(("headers", "code"), [
    ({"host": "evil.example"}, "wrong_host"),
    ({"origin": "https://evil.example"}, "cross_site"),
    ({"origin": "null"}, "cross_site"),
    ({"sec-fetch-site": "cross-site"}, "cross_site"),
])  # fmt: skip
def test_foreign_hosts_and_origins_get_nothing(client: httpx.Client, headers: dict[str, str], code: str) -> None:
    body, own = sent("tools/list", NEW)
    assert error(client.post("/mcp", json=body, headers={**own, **headers}), 403)["code"] == code


@pytest.mark.parametrize("version", [VERSION, NEW])
def test_this_machines_other_names_are_answered(client: httpx.Client, version: str) -> None:
    body, headers = sent("tools/list", version)
    headers |= {"host": "my.localhost:1234", "origin": "http://my.localhost:1234"}
    assert client.post("/mcp", json=body, headers=headers).status_code == 200


def test_a_body_that_is_too_large() -> None:
    app = create_app(lambda: pytest.fail("this app never starts"))
    headers = {"content-type": "application/json", "accept": "*/*", "content-length": str(LARGEST_BODY + 1)}
    answer = ask(app, "POST", "/mcp", headers, body=[b" "])
    assert (answer.status, json.loads(answer.body)["error"]["data"]["code"]) == (413, "too_large")


@pytest.mark.parametrize(("body", "headers", "status", "code"), [
    (b"{}", {"content-type": "text/plain"}, 415, "wrong_type"),
    (b"{}", {"accept": "application/json"}, 406, "not_acceptable"),
    (b"{", {}, 400, "invalid_json"),
    (b'{"id": 1, "id": 2}', {}, 422, "repeated_field"),
])  # fmt: skip
def test_what_is_no_message_is_refused(
    client: httpx.Client, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    usual = {"content-type": "application/json", **ACCEPT}
    answer = client.post("/mcp", content=body, headers={**usual, **headers})
    assert error(answer, status)["code"] == code


@pytest.mark.parametrize("version", [VERSION, NEW])
@pytest.mark.parametrize(("change", "message"), [
    ({"jsonrpc": "1.0"}, "jsonrpc is '1.0'; accepted: '2.0'"),
    ({"method": None}, "method is null; accepted: a text"),
    ({"id": 1.5}, "id is 1.5; accepted: an integer or a text"),
    ({"params": [1]}, "params is [1]; accepted: an object"),
    ({"params": {}}, "params.name is null; accepted: a tool's name"),
    ({"params": {"name": "list_models", "arguments": 5}}, "params.arguments is 5; accepted: an object"),
    ({"params": {"name": "list_models", "arguments": []}}, "params.arguments is []; accepted: an object"),
    ({"params": {"name": "list_models", "_meta": []}}, "params._meta is []; accepted: an object"),
    (
        {"params": {"name": "list_models", "_meta": {"progressToken": 1.5}}},
        "params._meta.progressToken is 1.5; accepted: an integer or a text",
    ),
])  # fmt: skip
def test_a_wrong_message_is_refused_by_the_name_of_its_field(
    client: httpx.Client, version: str, change: dict[str, Any], message: str
) -> None:
    body, headers = sent("tools/call", version, name="list_models")
    refusal = error(client.post("/mcp", json={**body, **change}, headers=headers), 400)
    assert (refusal["code"], refusal["message"]) == ("invalid_message", message)
    assert message.startswith(refusal["field"])


@pytest.mark.parametrize("depth", [100, *range(400, 1001, 20), 2000])
def test_a_message_that_is_nested_deeply_is_answered(client: httpx.Client, depth: int) -> None:
    headers = {"content-type": "application/json", **ACCEPT}
    params = '{"a":' * depth + "1" + "}" * depth
    answer = client.post(
        "/mcp", content=f'{{"jsonrpc":"2.0","id":1,"method":"ping","params":{params}}}', headers=headers
    )
    assert answer.status_code == (200 if depth == 100 else 400)


def test_several_messages_at_once_are_refused(client: httpx.Client) -> None:
    body, headers = sent("tools/list", VERSION)
    assert "one request or notification" in error(client.post("/mcp", json=[body], headers=headers), 400)["message"]


def test_an_unknown_parameter_of_the_query_is_refused(client: httpx.Client) -> None:
    body, headers = sent("tools/list", NEW)
    assert error(client.post("/mcp?key=x", json=body, headers=headers), 422)["field"] == "key"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_there_is_no_stream_beside_the_answers_and_no_session_to_end(client: httpx.Client, method: str) -> None:
    assert error(client.request(method, "/mcp"), 405)["code"] == "method_not_allowed"


def test_each_client_gets_a_session_of_its_own(client: httpx.Client) -> None:
    about = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    body, headers = sent("initialize", VERSION, **about)
    sessions = {client.post("/mcp", json=body, headers=headers).headers["mcp-session-id"] for _ in range(2)}
    assert len(sessions) == 2
    body, headers = sent("ping", VERSION)
    # Also one that another run of the server began.
    assert client.post("/mcp", json=body, headers={**headers, "mcp-session-id": "0" * 32}).status_code == 200


def test_a_server_without_the_sdk_says_how_to_add_it(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    body, headers = sent("tools/list", NEW)
    refusal = error(client.post("/mcp", json=body, headers=headers), 501)
    assert "pip install 'anemone[mcp]'" in refusal["message"]
