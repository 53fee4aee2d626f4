from __future__ import annotations

import asyncio
import base64
import json
import random
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

import server.api.image_json as image_json
from server.api.image_json import EncodedImage, decode_base64, read_image_json
from server.errors import ApiError

DATA = random.Random(0).randbytes(200_000)
TEXT = base64.b64encode(DATA).decode()


def read(body: bytes, size: int = 2**16) -> Any:
    """Read JSON that arrives in parts of this size."""

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    return asyncio.run(read_image_json(parts()))


def refused(body: bytes, size: int = 2**16) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(body, size)
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"data:image/png;base64,{TEXT}",
        TEXT.replace("/", r"\/"),
        TEXT.replace("+", r"\u002B").replace("/", r"\u002f").replace("=", r"\u003D"),
        TEXT.rstrip("="),
        TEXT.replace("+", "-").replace("/", "_"),
        f" DATA:image/png;name=a.png;charset=utf-8;BASE64,{TEXT}",
        r"\r\n".join(TEXT[start : start + 76] for start in range(0, len(TEXT), 76)),
    ],
    ids=["plain", "data URI", "PHP", ".NET", "no padding", "URL-safe", "parameters", "lines"],
)
@pytest.mark.parametrize("size", [997, 2**16, 2**20])
def test_a_long_text_is_decoded_while_it_arrives(text: str, size: int) -> None:
    value = read(b'{"prompt": "a \\" b", "images": [{"image": "' + text.encode() + b'"}], "n": 1}', size)
    image = value["images"][0]["image"]
    assert isinstance(image, EncodedImage)
    assert image.data == DATA
    del value["images"]
    assert value == {"prompt": 'a " b', "n": 1}


def test_any_json_is_read_as_python_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_json, "_LONGEST_TEXT", 400)
    chance = random.Random(1)

    def text() -> str:
        if chance.random() < 0.1:
            return base64.b64encode(chance.randbytes(chance.randrange(400, 900))).decode()
        return "".join(chance.choice('ab\\"/\n\t\u00e9\u4e00\U0001f600{}[],:') for _ in range(chance.randrange(12)))

    def value(depth: int) -> Any:
        kind = chance.randrange(5 if depth else 3)
        if kind == 0:
            return text()
        if kind < 3:
            return chance.choice([0, -1.5, 10**20, True, None])
        items = [value(depth - 1) for _ in range(chance.randrange(4))]
        return items if kind == 3 else {f"{n}{text()[:9]}": item for n, item in enumerate(items)}

    def plain(read: Any) -> Any:
        if isinstance(read, EncodedImage):
            assert read.data is not None
            return base64.b64encode(read.data).decode()
        if isinstance(read, list):
            return [plain(item) for item in read]
        return {k: plain(v) for k, v in read.items()} if isinstance(read, dict) else read

    for _ in range(150):
        document = value(4)
        body = json.dumps(document, ensure_ascii=chance.random() < 0.5).encode()
        assert plain(read(body, chance.choice([1, 7, 100, 10_000]))) == document


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("A" * 200_001, "cut short"),
        ("data:image/png;base64" + "A" * 200_000, "no comma"),
        ("data:image/png," + "A" * 200_000, "not in base64"),
        ("A" * 199_998 + "%2BAA", "percent-encoded"),
        ("A" * 200_000 + "!!!!", "only base64"),
        ("A" * 131_074 + "==" + "A" * 100_000, "adding"),
        ("\u00e9" * 200_000, "only base64"),
        ("A" * 200_000 + r"\u0041AAA", "only base64"),
    ],
)
@pytest.mark.parametrize("size", [2**12, 2**20])
def test_a_long_text_that_is_no_base64_says_why(text: str, error: str, size: int) -> None:
    image = read(b'{"a": "' + text.encode() + b'"}', size)["a"]
    assert image.data is None
    assert error in image.error


def test_a_long_text_tells_its_length() -> None:
    assert repr(read(b'["' + "\u4e00".encode() * 150_000 + b'"]')[0]) == "150000 characters"


@pytest.mark.parametrize(
    "junk", [b'{"a":1,' * 100_000, b"[" * 300_000, b"," * 300_000, b" " * 300_000, b'{"a":"' + b'"' * 300_000]
)
def test_what_is_no_image_is_small(junk: bytes) -> None:
    body = b'["' + TEXT.encode() + b'",' + junk
    assert refused(body).code == "too_large"


def test_several_small_images_are_read_beside_the_rest() -> None:
    small = base64.b64encode(DATA[:90_000])
    key = b"k" * 20_000
    body = b'{"controls": [' + b",".join([b'{"image": "' + small + b'"}'] * 6) + b'], "' + key + rb'": "a\u00e9"}'
    value = read(body)
    assert [decode_base64(control["image"]) for control in value["controls"]] == [DATA[:90_000]] * 6
    assert value[key.decode()] == "a\u00e9"


def test_there_are_few_images() -> None:
    long = b'"' + b"A" * 140_000 + b'"'
    assert len(read(b"[" + b",".join([long] * 16) + b"]")) == 16
    assert refused(b"[" + b",".join([long] * 17) + b"]").code == "too_large"
    short = b'"' + b"A" * 20_000 + b'"'
    assert refused(b"[" + b",".join([short] * 17) + b"]").code == "too_large"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"a": "b', "Unterminated string"),
        (b'{"a": "' + TEXT.encode(), "Unterminated string"),
        (b'{"a": 1}}', "Extra data"),
        (b"", "Expecting value"),
        (b"[" * 100_000, "nested too deeply"),
        (b'["' + TEXT.encode() + b'",' + b"[" * 5000 + b"]" * 5001, "nested too deeply"),
        (b"[" + b"9" * 100_000 + b"]", "too many digits"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a": "\xff"}', "not UTF-8"),
    ],
)
def test_what_is_no_json_says_why(body: bytes, reason: str) -> None:
    error = refused(body)
    assert (error.status, error.code) == (400, "invalid_json")
    assert reason in error.message


def test_a_byte_order_mark_is_ignored() -> None:
    assert read(b"\xef\xbb\xbf[1]") == [1]


@pytest.mark.parametrize("text", ["", "QQ==", "data:text/plain;base64,QQ==", " Q Q\n== ", "QQ", "QQ="])
def test_short_base64_is_decoded(text: str) -> None:
    assert decode_base64(text) == (b"A" if text else b"")


@pytest.mark.parametrize("text", ["Q", "QQ==QQ==", "=", "\ud800", "a\\"])
def test_short_text_that_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_base64(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("data:image/png;base64QQ==", "no comma"),
        ("data:image/png,QQ==", "not in base64; accepted: data:image/png;base64,..."),
        ("data:,", "not in base64"),
        ("https://example.org/a.png", "does not fetch"),
        (" HTTP://example.org/a.png", "does not fetch"),
        ("file:///tmp/a.png", "does not fetch"),
        ("QQ%3D%3D", "percent-encoded"),
        ("QQQQQ", "cut short"),
    ],
)
def test_short_text_that_is_no_base64_says_why(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        decode_base64(text)


def test_both_alphabets_are_read() -> None:
    assert decode_base64("-_-_") == decode_base64("+/+/") == b"\xfb\xff\xbf"


@pytest.mark.parametrize(
    "body", [b'{"steps": 1, "steps": 2}', b'{"controls": [{"weight": 1, "steps": 1, "steps": 1}]}']
)
def test_a_name_that_comes_twice_is_refused(body: bytes) -> None:
    error = refused(body)
    assert (error.status, error.code, error.field) == (422, "repeated_field", "steps")
