from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import pytest

from converter.errors import AnemoneError
from server.security.gate import Access
from server.security.hosts import Hosts
from server.security.key import COOKIE, FILE, ApiKey, Authenticator, kept_key
from server.security.sessions import Sessions
from tests.support.asgi_client import HERE, LAN, ask, gated

KEY = "a-key-for-tests-0123456789"


def keyed(sessions: Path | None = None) -> Access:
    return Access(Hosts(True), authenticator=Authenticator(ApiKey(KEY), sessions))


@pytest.fixture
def logged_in(tmp_path: Path) -> tuple[Access, str]:
    """A server's rules, and the cookie of a login there."""
    session = Sessions(KEY.encode(), tmp_path / "sessions").begin()
    return keyed(tmp_path / "sessions"), f"{COOKIE}={session}"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def basic(credentials: str | bytes) -> dict[str, str]:
    raw = credentials if isinstance(credentials, bytes) else credentials.encode()
    return {"authorization": f"Basic {base64.b64encode(raw).decode()}"}


@pytest.mark.parametrize("client", [HERE, LAN])
@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/jobs/x/images/0", "/metrics", "/openapi.json", "/nothing"])
def test_nothing_is_had_without_the_key(client: str, path: str) -> None:
    gate = gated(keyed())
    for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS"):
        answer = ask(gate, method, path, client=client)
        assert answer.status == 401
        assert answer.header("www-authenticate") == "Bearer"
    assert "Authorization: Bearer" in ask(gate, path=path).error()["message"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/page.js", "/page.css", "/icon.svg"])
def test_being_alive_and_the_page_need_none(path: str) -> None:
    assert ask(gated(keyed()), path=path).status == 200
    assert ask(gated(keyed()), "POST", path).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        bearer(KEY),
        {"authorization": f"bearer  {KEY} "},
        basic(f"{KEY}:"),
        basic(f":{KEY}"),
        basic(f"anemone:{KEY}"),
        basic(f"{KEY}:anything: at all"),
        basic(KEY),
        basic(f"{KEY}:".encode() + b"\xff"),
        {"authorization": f"bASIC  {base64.b64encode(f'a:{KEY}'.encode()).decode()} "},
    ],
)
def test_the_key_opens_as_a_header(headers: dict[str, str]) -> None:
    assert ask(gated(keyed()), headers=headers).status == 200
    assert ask(gated(keyed()), "POST", headers=headers).status == 200


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic "}, basic(":"), {"authorization": "Digest a"}])
def test_the_cookie_of_a_login_opens(logged_in: tuple[Access, str], headers: dict[str, str]) -> None:
    access, cookie = logged_in
    assert ask(gated(access), headers={**headers, "cookie": f"x=1; {cookie}; y"}).status == 200


@pytest.mark.parametrize("headers", [bearer("wrong"), basic("user:password"), {"authorization": "Basic ===="}])
def test_a_wrong_key_goes_before_a_right_cookie(logged_in: tuple[Access, str], headers: dict[str, str]) -> None:
    access, cookie = logged_in
    assert ask(gated(access), headers={**headers, "cookie": cookie}).error()["code"] == "key_wrong"


@pytest.mark.parametrize("cookie", ["", KEY, "a" * 43, "a" * 5000, "\xff\xfe"])
def test_a_cookie_of_no_open_login_is_taken_back(cookie: str) -> None:
    answer = ask(gated(keyed()), headers={"cookie": f"{COOKIE}={cookie}"})
    assert (answer.status, answer.error()["code"]) == (401, "login_ended")
    assert "Max-Age=0" in (answer.header("set-cookie") or "")


@pytest.mark.parametrize(
    "headers",
    [
        bearer("wrong"),
        bearer(""),
        bearer(KEY + "x"),
        bearer(KEY[:-1]),
        bearer("\xff" * 20),
        basic("user:password"),
        basic("user:"),
        basic(f"{KEY}x:{KEY[:-1]}"),
        basic(f"a:b:{KEY}"),
        basic("no colon"),
        basic(b"\xff\xfe:\x80"),
        {"authorization": f"Basic {KEY}"},
        bearer("x" * 100_000),
        {"authorization": "Basic \xff\xff"},
    ],
)
def test_a_wrong_key_does_not(headers: dict[str, str]) -> None:
    answer = ask(gated(keyed()), headers=headers)
    assert (answer.status, answer.error()["code"]) == (401, "key_wrong")
    # Never Basic: a browser would ask its user with a dialog of its own.
    assert answer.header("www-authenticate") == "Bearer"
    assert KEY not in answer.body.decode()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Basic "},
        basic(":"),
        {"authorization": f"Digest {KEY}"},
        {"authorization": KEY},
        {"cookie": "a;b=;=c"},
    ],
)
def test_who_shows_no_key_is_told_how(headers: dict[str, str]) -> None:
    assert ask(gated(keyed()), headers=headers).error()["code"] == "key_missing"


def test_a_server_without_a_key_does_not_mind_one() -> None:
    for headers in (bearer("sk-anything"), basic("user:password"), {"authorization": "Basic "}):
        assert ask(gated(), headers=headers).status == 200


def test_who_tries_keys_is_made_to_wait_even_for_the_right_one() -> None:
    gate = gated(keyed())
    for n in range(10):
        assert ask(gate, headers=bearer(f"guess {n}"), client=LAN).status == 401
    answer = ask(gate, headers=bearer(KEY), client=LAN)
    assert (answer.status, answer.error()["code"]) == (429, "too_many_wrong_keys")
    assert 1 <= int(answer.header("retry-after") or 0) <= 60
    assert ask(gate, headers=bearer(KEY), client="192.168.1.21").status == 200
    assert ask(gate, path="/healthz", client=LAN).status == 200


def test_an_old_cookie_locks_nobody_out() -> None:
    gate = gated(keyed())
    assert {ask(gate, headers={"cookie": f"{COOKIE}=old"}, client=LAN).status for _ in range(30)} == {401}
    assert ask(gate, headers=bearer(KEY), client=LAN).status == 200


def test_wrong_keys_count_together_however_they_are_sent() -> None:
    gate = gated(keyed())
    ways = [basic("a:guess"), bearer("guess")]
    assert [ask(gate, headers=ways[n % 2], client=LAN).status for n in range(11)] == [401] * 10 + [429]


def test_right_keys_do_not_count_as_tries() -> None:
    gate = gated(keyed())
    assert {ask(gate, headers=bearer(KEY), client=LAN).status for _ in range(30)} == {200}


def test_who_is_logged_in_does_not_wait_for_wrong_keys_from_the_same_address(logged_in: tuple[Access, str]) -> None:
    access, cookie = logged_in
    gate = gated(access)
    assert [ask(gate, headers=bearer("guess")).status for _ in range(11)] == [401] * 10 + [429]
    assert ask(gate, headers={"cookie": cookie}).status == 200


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic "}, basic(":")])
def test_requests_without_a_key_do_not_count_as_tries(headers: dict[str, str]) -> None:
    gate = gated(keyed())
    assert {ask(gate, headers=headers, client=LAN).status for _ in range(30)} == {401}
    assert ask(gate, headers=bearer(KEY), client=LAN).status == 200


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    key, is_new = kept_key(tmp_path)
    assert is_new
    assert len(key) >= 43
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    (tmp_path / FILE).chmod(0o644)
    assert kept_key(tmp_path) == (key, False)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_a_full_disk_leaves_no_empty_key_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdopen", full)
        with pytest.raises(AnemoneError, match="No space left"):
            kept_key(tmp_path)
    assert kept_key(tmp_path)[1]


@pytest.mark.parametrize(
    "content", [b"", b"short", b"with a space in it, and long", "schlüssel-schlüssel".encode(), b"\xff" * 40]
)
def test_a_file_that_holds_no_key_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(AnemoneError, match=FILE):
        kept_key(tmp_path)


def test_a_folder_in_the_keys_place_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(AnemoneError, match=rf"{FILE} cannot be used: .* move it away"):
        kept_key(tmp_path)


def test_a_link_to_a_key_that_is_away_is_not_replaced_by_another_key(tmp_path: Path) -> None:
    (tmp_path / FILE).symlink_to(tmp_path / "away")
    with pytest.raises(AnemoneError, match=f"{FILE} cannot be used: No such file or directory"):
        kept_key(tmp_path)
    assert (tmp_path / FILE).is_symlink()


def test_a_key_is_not_printed_by_accident() -> None:
    key = ApiKey(KEY)
    assert KEY not in f"{key} {key!r} {[key]} {Access(authenticator=Authenticator(key))}"
