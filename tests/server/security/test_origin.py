from __future__ import annotations

import pytest

from server.security.gate import Access
from tests.support.asgi_client import ask, gated

STUDIO = "https://studio.example:8443"
FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "null", "sec-fetch-site": "same-origin"},
    {"origin": "null", "sec-fetch-site": "none"},
    {"origin": "http://localhost:3000"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "http://localhost", "sec-fetch-site": "cross-site"},
    {"origin": "http://localhost", "sec-fetch-site": "SAME-ORIGIN"},
    {"origin": "http://localhost", "sec-fetch-site": ""},
    {"origin": ""},
    {"origin": "localhost"},
    {"origin": "://localhost"},
    {"origin": "chrome-extension://localhost"},
    {"origin": "http://localhost/"},
    {"origin": "http://evil@localhost"},
    {"origin": "http://localhost, http://evil.example"},
    {"origin": "file://"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH"])
def test_another_sites_page_changes_nothing(headers: dict[str, str], method: str) -> None:
    answer = ask(gated(), method, headers=headers)
    assert answer.status == 403
    assert answer.error()["code"] == "cross_site"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://localhost"},
        {"origin": "http://localhost", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        # Its own page, behind a proxy that changes the host.
        {"origin": "https://studio.example", "sec-fetch-site": "same-origin"},
    ],
)
def test_programs_and_its_own_page_do(headers: dict[str, str]) -> None:
    assert ask(gated(), "POST", headers=headers).status == 200


def test_without_configuration_no_site_is_let_read() -> None:
    answer = ask(gated(), headers={"origin": STUDIO})
    assert answer.header("access-control-allow-origin") is None
    preflight = {"origin": STUDIO, "access-control-request-method": "POST"}
    assert ask(gated(), "OPTIONS", headers=preflight).status == 403


def test_a_configured_site_may_ask_and_read_and_no_other() -> None:
    gate = gated(Access(origins=(STUDIO,)))
    wanted = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, x-stainless-os",
    }
    preflight = ask(gate, "OPTIONS", headers={"origin": STUDIO, **wanted})
    assert preflight.status == 200
    assert preflight.header("access-control-allow-origin") == STUDIO
    assert preflight.header("access-control-allow-headers") == wanted["access-control-request-headers"]
    assert preflight.header("access-control-allow-credentials") is None
    answer = ask(gate, "POST", headers={"origin": STUDIO, "sec-fetch-site": "cross-site"})
    assert (answer.status, answer.header("access-control-allow-origin")) == (200, STUDIO)
    readable = set((answer.header("access-control-expose-headers") or "").split(", "))
    # What answers tell of their job and its images.
    assert {"X-Job-Id", "X-Anemone-Seed", "X-Anemone-Notes", "X-Anemone-Safety", "Idempotent-Replayed"} <= readable
    for other in ("https://evil.example", "null", "http://studio.example:8443", "https://studio.example"):
        assert ask(gate, "OPTIONS", headers={"origin": other, **wanted}).status == 403
        assert ask(gate, "POST", headers={"origin": other}).status == 403
        assert ask(gate, headers={"origin": other}).header("access-control-allow-origin") is None
