from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from server.security.gate import Access
from server.security.key import COOKIE, ApiKey, Authenticator
from server.security.sessions import Sessions
from tests.support.live_server import answers, enqueue, live, over

KEY = "the-key-of-a-household"
SESSION = "/api/v1/session"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with live(tmp_path_factory.mktemp("keyed"), access=Access(authenticator=Authenticator(ApiKey(KEY)))) as client:
        yield client


@pytest.fixture
def browser(server: httpx.Client) -> Iterator[httpx.Client]:
    """A client with its own cookie jar."""
    with httpx.Client(base_url=server.base_url, trust_env=False, timeout=server.timeout) as client:
        yield client


def test_the_page_loads_without_a_key_and_logs_in_with_it(browser: httpx.Client) -> None:
    assert answers(browser)
    for path in ("/", "/page.js", "/page.css", "/icon.svg", "/readyz"):
        assert browser.get(path).status_code == 200
    assert browser.get("/api/v1/capabilities").status_code == 401
    own = {"Origin": str(browser.base_url), "Sec-Fetch-Site": "same-origin"}
    answer = browser.post(SESSION, json={"key": KEY}, headers=own)
    assert (answer.status_code, answer.content) == (204, b"")
    made = enqueue(browser, "a circle")
    image = over(browser, made["id"])["images"][0]["url"]
    assert browser.get(image).status_code == 200
    browser.cookies.clear()
    assert browser.get(image).status_code == 401


def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites_and_is_not_the_key(browser: httpx.Client) -> None:
    cookie = browser.post(SESSION, json={"key": KEY}).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert KEY not in cookie


def test_logging_out_ends_this_login_on_the_server_and_no_other(browser: httpx.Client) -> None:
    cookies = [str(browser.post(SESSION, json={"key": KEY}).cookies[COOKIE])]
    browser.cookies.clear()
    cookies.append(str(browser.post(SESSION, json={"key": KEY}).cookies[COOKIE]))
    assert browser.get("/api/v1/jobs").status_code == 200
    assert browser.delete(SESSION).status_code == 204
    assert COOKIE not in browser.cookies
    assert [opens(browser, cookie) for cookie in cookies] == [True, False]


def test_logging_in_again_ends_the_login_before(browser: httpx.Client) -> None:
    cookies = [str(browser.post(SESSION, json={"key": KEY}).cookies[COOKIE]) for _ in range(2)]
    browser.cookies.clear()
    assert [opens(browser, cookie) for cookie in cookies] == [False, True]


def opens(client: httpx.Client, cookie: str) -> bool:
    return client.get("/api/v1/jobs", headers={"Cookie": f"{COOKIE}={cookie}"}).status_code == 200


def test_the_cookie_of_a_page_over_https_is_never_sent_in_clear(browser: httpx.Client) -> None:
    behind_a_proxy = {"Origin": "https://studio.example", "Sec-Fetch-Site": "same-origin"}
    cookie = browser.post(SESSION, json={"key": KEY}, headers=behind_a_proxy).headers["set-cookie"]
    assert {"Secure", "HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))


def test_wrong_logins_at_once_are_counted_before_they_are_checked(tmp_path: Path) -> None:
    access = Access(authenticator=Authenticator(ApiKey(KEY)))
    with live(tmp_path, access=access, ready=False) as client, ThreadPoolExecutor(40) as threads:
        statuses = Counter(threads.map(lambda _: client.post(SESSION, json={"key": "wrong"}).status_code, range(40)))
        right = client.post(SESSION, json={"key": KEY})
    # One more for each six seconds that this takes.
    assert statuses[401] + statuses[429] == 40
    assert 10 <= statuses[401] <= 15
    assert (right.status_code, right.json()["error"]["code"]) == (429, "too_many_wrong_keys")
    assert 1 <= int(right.headers["retry-after"]) <= 60


def test_a_cookie_of_an_earlier_key_is_taken_back(browser: httpx.Client) -> None:
    browser.cookies.set(COOKIE, Sessions(b"an-earlier-key-of-it").begin(), domain=str(browser.base_url.host))
    answer = browser.get("/api/v1/jobs")
    assert answer.status_code == 401
    assert "Max-Age=0" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    "body", ['{"key": "wrong"}', '{"key": ""}', '{"key": "😀"}', r'{"key": "half of one: \ud83d"}']
)
def test_a_wrong_key_gets_no_cookie(browser: httpx.Client, body: str) -> None:
    answer = browser.post(SESSION, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "key_wrong")
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "body",
    ['{"key": 1234567890123456}', '{"key": ["the-secret-key-of-it"]}', '{"Key": "the-secret-key-of-it"}',
     '{"key": "a", "token": "the-secret-key-of-it"}', '"the-secret-key-of-it"', '{"key": "the-secret-key-of-it"'],
)  # fmt: skip
def test_a_login_that_is_malformed_is_refused_without_showing_what_it_held(browser: httpx.Client, body: str) -> None:
    answer = browser.post(SESSION, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert "1234567890123456" not in answer.text
    assert "the-secret-key-of-it" not in answer.text


def test_another_sites_page_cannot_log_in(browser: httpx.Client) -> None:
    answer = browser.post(SESSION, json={"key": KEY}, headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
    assert browser.post(SESSION, data={"key": KEY}).status_code == 415


def test_programs_send_the_key_with_each_request(browser: httpx.Client) -> None:
    browser.headers["Authorization"] = f"Bearer {KEY}"
    assert browser.get("/openapi.json").status_code == 200
    del browser.headers["Authorization"]
    assert browser.get("/openapi.json").status_code == 401
    for auth in (("anemone", KEY), (KEY, "")):
        assert browser.get("/openapi.json", auth=auth).status_code == 200


def test_a_server_without_a_key_lets_everyone_log_in(client: httpx.Client) -> None:
    answer = client.post(SESSION, json={"key": "anything"})
    assert answer.status_code == 204
    assert "set-cookie" not in answer.headers
