from __future__ import annotations

import re
from typing import get_args

import httpx

from server.pipeline.decoding.file import Format


def test_the_page_and_all_it_needs_come_from_here(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "<title>Anemone</title>" in page.text
    needed = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {"page.js", "page.css", "icon.svg"} <= set(needed)
    for path in needed:
        assert "//" not in path
        assert client.get(f"/{path}").status_code == 200


def test_the_page_has_nothing_inline_that_its_policy_forbids(client: httpx.Client) -> None:
    page = client.get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page)


def test_the_script_uses_only_elements_that_the_page_has(client: httpx.Client) -> None:
    page, script = client.get("/").text, client.get("/page.js").text
    assert set(re.findall(r'\$\("(\w+)"\)', script)) <= set(re.findall(r'id="(\w+)"', page))
    assert set(re.findall(r"elements\.(\w+)", script)) <= set(re.findall(r'name="(\w+)"', page))


def test_the_page_lets_every_format_that_is_read_be_chosen(client: httpx.Client) -> None:
    chosen = re.findall(r'accept="([^"]+)"', client.get("/").text)
    assert [set(types.split(",")) for types in chosen] == [{f"image/{name.lower()}" for name in get_args(Format)}]
