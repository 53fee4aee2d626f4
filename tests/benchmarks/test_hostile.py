from __future__ import annotations

import io
import json

from PIL import Image

from benchmarks.hostile_clients import junk_bodies, large_png


def test_junk_goes_to_every_route_in_bodies_of_the_size_asked_for() -> None:
    junk = junk_bodies(10_000)
    assert {path for _, path, _, _ in junk} == {f"/api/v1/{r}" for r in ("session", "txt2img", "img2img", "models")}
    assert all(9_000 < len(body) < 11_000 for *_, body in junk)
    members = next(body for name, _, _, body in junk if "members" in name)
    assert len(json.loads(members)) == 833


def test_the_upload_is_a_small_file_of_an_image_that_has_the_size_asked_for() -> None:
    png = large_png(800, 400)
    image = Image.open(io.BytesIO(png))
    image.load()
    assert (image.size, image.mode) == ((800, 400), "RGBA")
    assert len(png) < 2_000
