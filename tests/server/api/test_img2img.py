from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.live_server import over

Encoded = Callable[..., bytes]


def form(client: httpx.Client, image: bytes, **fields: Any) -> httpx.Response:
    files = {"image": ("first.png", image)}
    return client.post("/api/v1/img2img", data={"prompt": "a circle", **fields}, files=files)


def refused(answer: httpx.Response, status: int = 422) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


def assert_red(answer: httpx.Response) -> None:
    assert answer.status_code == 200, answer.text
    red, green, blue = Image.open(io.BytesIO(answer.content)).convert("RGB").getpixel((5, 5))  # type: ignore[misc]
    assert (red > 240, green < 15, blue < 15) == (True, True, True)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_file_of_a_form_is_the_first_image(client: httpx.Client, encoded: Encoded, kind: str) -> None:
    answer = form(client, encoded(kind), steps="4", strength="0.5", seed="3", guidance_scale="2.5")
    assert_red(answer)
    job = over(client, answer.headers["x-job-id"])
    expected = {"steps": 4, "strength": 0.5, "seed": 3, "guidance_scale": 2.5}
    assert expected.items() <= job["request"].items()
    assert "image" not in job["request"]


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_base64_in_json_is_the_first_image(client: httpx.Client, encoded: Encoded, prefix: str) -> None:
    image = prefix + base64.b64encode(encoded()).decode()
    assert_red(client.post("/api/v1/img2img", json={"prompt": "a circle", "image": image}))


def test_the_png_says_how_much_was_changed(client: httpx.Client, encoded: Encoded) -> None:
    words = Image.open(io.BytesIO(form(client, encoded(), strength="0.5", steps="4").content)).info["parameters"]
    assert "Denoising strength: 0.5" in words


@pytest.mark.parametrize(
    "image",
    [b"", b"just some text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"GIF89a" + bytes(50), b"\x89PNG\r\n\x1a\n"],
)
def test_a_file_that_is_no_image_is_refused_in_words(client: httpx.Client, image: bytes) -> None:
    error = refused(form(client, image))
    assert error["field"] == "image"
    assert "PNG, JPEG, WebP or GIF" in error["message"]


def test_a_png_that_is_cut_short_is_refused(client: httpx.Client) -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    for length in (40, 500, len(file.getvalue()) // 2):
        assert refused(form(client, file.getvalue()[:length]))["field"] == "image"


def test_an_image_is_refused_by_the_size_in_its_header(client: httpx.Client, encoded: Encoded) -> None:
    error = refused(form(client, encoded(size=(9000, 10))))
    assert "9000x10" in error["message"]
    assert "8192" in error["message"]


@pytest.mark.parametrize(
    "image", ["!!!", "data:image/png;base64,%%", "http://127.0.0.1/picture.png", "file:///etc/passwd", ""]
)
def test_a_string_that_is_no_base64_image_is_refused(client: httpx.Client, image: str) -> None:
    assert refused(client.post("/api/v1/img2img", json={"prompt": "a", "image": image}))["field"] == "image"


@pytest.mark.parametrize("strength", ["0", "-1", "1.01", "nan", "much"])
def test_a_strength_out_of_range_is_named(client: httpx.Client, encoded: Encoded, strength: str) -> None:
    assert refused(form(client, encoded(), strength=strength))["field"] == "strength"


def test_a_strength_too_small_for_a_step_says_how_much_is_enough(client: httpx.Client, encoded: Encoded) -> None:
    error = refused(form(client, encoded(), strength="0.1", steps="5"))
    assert error["field"] == "strength"
    assert "0.2" in error["message"]
    assert "accepted: 1 with steps 1:" in refused(form(client, encoded(), steps="1"))["message"]


def test_a_missing_image_is_named(client: httpx.Client) -> None:
    assert refused(client.post("/api/v1/img2img", json={"prompt": "a"}))["field"] == "image"
    files = {"prompt": (None, "a")}
    assert refused(client.post("/api/v1/img2img", files=files))["field"] == "image"


def test_unknown_and_misplaced_fields_of_a_form_are_named(client: httpx.Client, encoded: Encoded) -> None:
    assert refused(form(client, encoded(), mask="x"))["field"] == "mask"
    files = {"prompt": ("prompt.txt", b"a"), "image": ("a.png", encoded())}
    answer = client.post("/api/v1/img2img", files=files)
    assert answer.status_code in (400, 422), answer.text


@pytest.mark.parametrize("name", ["prompt", "seeds", "mask"])
def test_a_field_that_is_in_a_form_twice_is_refused(client: httpx.Client, encoded: Encoded, name: str) -> None:
    """The second value would silently take the place of the first."""
    error = refused(form(client, encoded(), **{name: ["1", "2"]}))
    assert (error["code"], error["field"]) == ("repeated_field", name)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x\r\n\r\n"),
        ("multipart/form-data; boundary=x", b"no form at all"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na'),
        ("multipart/form-data; boundary=x", b"--x\r\nBroken\r\n\r\na\r\n--x--\r\n"),
        ("application/json", b"{"),
    ],
)
def test_a_broken_body_is_a_clients_error(client: httpx.Client, kind: str, body: bytes) -> None:
    answer = client.post("/api/v1/img2img", content=body, headers={"Content-Type": kind})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]["message"]


PART = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
LAST = b"--x--\r\n"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"".join(PART % (b"f%d" % n, b"", b"1") for n in range(5000)) + LAST, "Too many fields"),
        (PART % (b"prompt", b"", b"a") + PART % (b"image", b'; filename="a"', b"1") * 17 + LAST, "Too many files"),
        (PART % (b"prompt", b"", b"a" * 2**19) + LAST, "256KB"),
        (PART.replace(b"name=", b"title=") % (b"prompt", b"", b"a") + LAST, '"name" must be provided'),
        (b"--x\r\nX-Long: " + b"a" * 2**20 + b"\r\n\r\n", "parsed"),
        (b"--x\r\n" + b"X-A: b\r\n" * 1000 + b"\r\n", "parsed"),
        (b"--xx" * 2**18, "parsed"),
    ],
    ids=["fields", "files", "long field", "no name", "long header", "headers", "boundary"],
)
def test_a_form_of_junk_says_what_is_wrong(client: httpx.Client, body: bytes, reason: str) -> None:
    answer = client.post("/api/v1/img2img", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert reason in refused(answer, 400)["message"]


def test_a_long_prompt_of_a_form_is_answered_with_its_length(client: httpx.Client, encoded: Encoded) -> None:
    assert "prompt is 20000 characters" in refused(form(client, encoded(), prompt="a" * 20_000))["message"]


@pytest.mark.parametrize("charset", ["punycode", "unicode_escape", "zlib", "latin-1"])
def test_a_form_is_in_utf_8(client: httpx.Client, charset: str) -> None:
    body = PART % (b"prompt", b"", b"a") + LAST
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    assert (
        "UTF-8" in refused(client.post("/api/v1/img2img", content=body, headers={"Content-Type": kind}), 415)["message"]
    )


@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "scheduler", "model", "steps", "seeds", "priority"])
def test_an_image_in_a_place_for_text_is_refused(client: httpx.Client, field: str) -> None:
    error = refused(client.post("/api/v1/img2img", json={"prompt": "a", "image": "", field: "A" * 200_000}))
    assert error["field"] == field
    assert f"{field} is 200000 characters" in error["message"]


def test_an_image_in_escaped_base64_is_read(client: httpx.Client, encoded: Encoded) -> None:
    noise = io.BytesIO()
    Image.effect_noise((500, 500), 80).save(noise, "PNG")
    text = base64.b64encode(noise.getvalue()).decode()
    assert len(text) > 2**17
    body = f'{{"prompt": "a", "image": "{text}"}}'.replace("+", r"\u002B").replace("/", r"\/")
    answer = client.post("/api/v1/img2img", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text


def test_a_body_of_another_type_is_refused(client: httpx.Client, encoded: Encoded) -> None:
    answer = client.post("/api/v1/img2img", content=encoded(), headers={"Content-Type": "image/png"})
    assert "multipart/form-data" in refused(answer, 415)["message"]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (b"GIF89a" + bytes(50), "this GIF image is damaged"),
        (b"BM" + bytes(50), "a BMP image"),
        (b"II*\0" + bytes(50), "a TIFF"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "a HEIC image"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif" + bytes(50), "an AVIF image"),
        (b"\0\0\0\x18ftypqt  " + bytes(50), "QuickTime"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"\n<!DOCTYPE html><title>404</title>", "an HTML page"),
        (b"", "an empty file"),
        (b"a text file", "this is text"),
        (b"data:image/png;base64,iVBORw0KGgo", "base64 text"),
        (bytes(range(256)), "256 bytes in no known format"),
    ],
)
def test_what_was_sent_instead_of_an_image_is_named(client: httpx.Client, image: bytes, words: str) -> None:
    error = refused(form(client, image))
    assert words in error["message"]
    assert "accepted: a complete PNG, JPEG, WebP or GIF image" in error["message"]


def test_a_form_whose_image_is_text_says_how_to_send_a_file(client: httpx.Client) -> None:
    error = refused(client.post("/api/v1/img2img", files={"prompt": (None, "a"), "image": (None, "a.png")}))
    assert "curl -F image=@image.png" in error["message"]


def test_an_address_is_not_fetched_and_says_so(client: httpx.Client) -> None:
    body = {"prompt": "a", "image": "https://example.org/a.png"}
    assert "does not fetch" in refused(client.post("/api/v1/img2img", json=body))["message"]


TWO_FIELDS = PART % (b"prompt", b"", b"a") + PART % (b"steps", b"", b"1")


def sent_form(client: httpx.Client, body: bytes) -> httpx.Response:
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Accept": "application/json"}
    return client.post("/api/v1/txt2img", content=body, headers=headers)


@pytest.mark.parametrize("end", [b"", b"--", b"--x", b"--x-", b"--x\r\n"])
def test_a_form_that_is_cut_short_is_refused_since_its_last_field_would_be_dropped(
    client: httpx.Client, end: bytes
) -> None:
    answer = sent_form(client, TWO_FIELDS + end)
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "code": "invalid_form",
        "message": "the form is cut short: it ends without its last boundary",
    }


@pytest.mark.parametrize("end", [b"--x--", b"--x--\r\n", b"--x--\r\nafter the end"])
def test_a_form_is_complete_with_its_last_boundary(client: httpx.Client, end: bytes) -> None:
    answer = sent_form(client, TWO_FIELDS + end)
    assert answer.status_code == 200, answer.text
    assert answer.json()["request"]["steps"] == 1


def test_an_empty_form_lacks_its_fields(client: httpx.Client) -> None:
    assert sent_form(client, b"--x--\r\n").json()["error"]["code"] == "missing_field"
