"""An image's colors over HTTP, and those of a job's reference."""

from __future__ import annotations

import base64
import io

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.image_files import encoded
from tests.support.live_server import over

FLAG = np.zeros((60, 60, 3), np.uint8)
FLAG[:40], FLAG[40:] = (250, 220, 60), (60, 150, 70)
FILE = encoded(Image.fromarray(FLAG))


def colors_of(answer: httpx.Response) -> list[dict]:
    assert answer.status_code == 200, answer.text
    return answer.json()["colors"]


def test_an_image_s_colors_come_with_their_shares(client: httpx.Client) -> None:
    yellow, green = colors_of(client.post("/api/v1/palette", files={"image": FILE}, data={"colors": "2"}))
    assert yellow == {"hex": "#fadc3c", "rgb": [250, 220, 60], "share": pytest.approx(2 / 3, abs=1e-3)}
    assert green == {"hex": "#3c9646", "rgb": [60, 150, 70], "share": pytest.approx(1 / 3, abs=1e-3)}
    sent = {"image": base64.b64encode(FILE).decode(), "colors": 2}
    assert colors_of(client.post("/api/v1/palette", json=sent)) == [yellow, green]


def test_who_accepts_a_png_gets_a_strip_of_the_colors(client: httpx.Client) -> None:
    answer = client.post("/api/v1/palette", files={"image": FILE}, headers={"Accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    strip = Image.open(io.BytesIO(answer.content))
    assert strip.size == (128, 64)
    assert strip.getpixel((0, 0)) == (250, 220, 60)
    assert client.post("/api/v1/palette", files={"image": FILE}, headers={"Accept": "text/html"}).status_code == 406


@pytest.mark.parametrize("accept", ["application/json", "image/png"])
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_that_further_frames_are_not_looked_at_is_told(client: httpx.Client, kind: str, accept: str) -> None:
    image, other = Image.fromarray(FLAG), Image.new("RGB", (60, 60), "red")
    animated = encoded(image, kind, save_all=True, append_images=[other])
    answer = client.post("/api/v1/palette", files={"image": animated}, headers={"Accept": accept})
    assert answer.headers["x-anemone-notes"] == "image is animated: its first frame is used"
    still = client.post("/api/v1/palette", files={"image": encoded(image, kind)}, headers={"Accept": accept})
    assert "x-anemone-notes" not in still.headers


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"files": {"image": b"no image"}}, "image"),
        ({"files": {"image": FILE}, "data": {"colors": "17"}}, "colors"),
        ({"files": {"image": FILE}, "data": {"colors": "1"}}, "colors"),
        ({"data": {"colors": "3"}, "files": {"other": FILE}}, "image"),
    ],
)
def test_what_is_wrong_is_named(client: httpx.Client, sent: dict, field: str) -> None:
    answer = client.post("/api/v1/palette", **sent)
    assert answer.status_code == 422
    assert field in answer.json()["error"]["message"]


def test_a_job_tells_the_colors_of_its_reference(client: httpx.Client) -> None:
    answer = client.post("/api/v1/txt2img", files={"palette_image": FILE}, data={"prompt": "a circle"})
    assert answer.status_code == 200, answer.text
    job = over(client, answer.headers["x-job-id"])
    assert [color["hex"] for color in job["palette"]] == ["#fadc3c", "#3c9646"]
    assert job["request"]["palette_strength"] == 1
    plain = client.post("/api/v1/txt2img", json={"prompt": "a circle"})
    assert over(client, plain.headers["x-job-id"])["palette"] is None
