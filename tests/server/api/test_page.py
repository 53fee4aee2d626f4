from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import get_args

import httpx

from server.pipeline.decoding.file import Format

_SOURCES = Path(__file__).resolve().parents[3] / "page"
_FILES = ("/", "/page.js", "/page.css", "/icon.svg")


def test_the_page_and_all_it_needs_come_from_here(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "<title>Anemone</title>" in page.text
    needed = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {"page.js", "page.css", "icon.svg"} == set(needed)
    assert all(client.get(f"/{path}").status_code == 200 for path in needed)


def test_what_is_served_was_built_from_these_sources(client: httpx.Client) -> None:
    names = [f"src/{path.name}" for path in (_SOURCES / "src").iterdir()]
    digest = hashlib.sha256()
    for name in sorted([*names, "build.mjs", "package-lock.json", "package.json", "tsconfig.json"]):
        digest.update(f"{name}\0".encode() + (_SOURCES / name).read_bytes() + b"\0")
    built = re.match(r"/\* sources ([0-9a-f]{64});", client.get("/page.js").text)
    assert built is not None
    assert built[1] == digest.hexdigest(), "page/ has changed: run `make page`"


def test_the_page_names_no_other_host(client: httpx.Client) -> None:
    served = "".join(client.get(path).text for path in _FILES)
    named = set(re.findall(r"\bhttps?://([^/\"'`\s]+)", served)) | set(re.findall(r"url\(\s*[\"']?//([^/)]+)", served))
    assert named <= {"www.w3.org"}  # names of SVG and MathML, not addresses


def test_the_page_has_nothing_inline_that_its_policy_forbids(client: httpx.Client) -> None:
    page = client.get("/")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page.text)
    policy = dict(rule.split(" ", 1) for rule in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}


def test_the_first_load_is_small(client: httpx.Client) -> None:
    assert sum(len(client.get(path).content) for path in _FILES) <= 110_000


def test_the_page_lets_every_format_that_is_read_be_chosen(client: httpx.Client) -> None:
    chosen = set(re.findall(r"\bimage/(png|jpeg|webp|gif|avif|heic|bmp|tiff)\b", client.get("/page.js").text))
    assert {f"{name.lower()}" for name in get_args(Format)} <= chosen


def test_a_browser_asks_each_time_and_gets_only_what_has_changed(client: httpx.Client) -> None:
    for path, kind in zip(_FILES, ("text/html", "javascript", "text/css", "image/svg+xml"), strict=True):
        first = client.get(path)
        assert kind in first.headers["content-type"]
        assert first.headers["cache-control"] == "no-cache"
        again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
