"""Who may call: the key by Basic, pages of other sites, and those that the setting cors_origins names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.security.gate import Access
from server.security.key import ApiKey, Authenticator
from tests.support.live_server import live

KEY = "the-key-of-a-household"
PLUGIN = "http://127.0.0.1:3000"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with a key, which a page of another site may call."""
    folder: Path = tmp_path_factory.mktemp("keyed")
    with live(folder, access=Access(origins=(PLUGIN,), authenticator=Authenticator(ApiKey(KEY)))) as client:
        yield client


@pytest.mark.parametrize("auth", [("anyone", KEY), (KEY, ""), (KEY, "anything")])
def test_the_key_is_taken_by_basic_as_user_name_or_password(keyed: httpx.Client, auth: tuple[str, str]) -> None:
    assert keyed.get("/sdapi/v1/options", auth=auth).status_code == 200
    assert keyed.post("/internal/progress", json={}, auth=auth).status_code == 200


@pytest.mark.parametrize("auth", [None, ("anyone", "wrong")])
def test_without_the_key_there_is_an_error_in_automatic1111s_form(
    keyed: httpx.Client, auth: tuple[str, str] | None
) -> None:
    for path in ("/sdapi/v1/options", "/internal/pending-tasks", "/controlnet/model_list"):
        answer = keyed.get(path, auth=auth)
        assert answer.status_code == 401
        assert "API key" in answer.json()["detail"]


def test_a_page_of_an_allowed_site_may_call(keyed: httpx.Client) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,authorization"}
    preflight = keyed.options("/sdapi/v1/txt2img", headers={"Origin": PLUGIN, **asks})
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == PLUGIN
    page = {"Origin": PLUGIN, "Sec-Fetch-Site": "cross-site"}
    answer = keyed.post("/sdapi/v1/txt2img", json={"steps": 1}, headers=page, auth=("", KEY))
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == PLUGIN
    assert "X-Job-Id" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json"])
def test_a_page_of_another_site_may_not_whatever_type_it_sends(client: httpx.Client, kind: str) -> None:
    """Browsers send the first two without asking."""
    headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Content-Type": kind}
    for path in ("txt2img", "options", "interrupt"):
        answer = client.post(f"/sdapi/v1/{path}", content=b'{"steps": 1}', headers=headers)
        assert answer.status_code == 403
        assert "another site" in answer.json()["detail"]
