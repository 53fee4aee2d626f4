"""Requests to enlarge an image: how they are bound, stored and carried out."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from server.pipeline.cost import upscale_cost
from server.pipeline.encoding.encode import encode_as, encode_png
from server.pipeline.encoding.formats import FORMATS
from server.pipeline.finished import upscaled_png
from server.pipeline.request import GenerationRequest, RequestError, UpscaleRequest, bind_upscale, read_request
from server.pipeline.tasks.upscale import TileStep, upscale
from tests.support.generation_requests import request as generation

KNOWN = {"photos": 64, "lanczos": 0, "nearest": 0}


def bound(source=(100, 60), **fields):
    return bind_upscale(KNOWN, source, image="image", **fields)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (200, 120)),
        ({"scale": 1.5}, (150, 90)),
        ({"scale": "3"}, (300, 180)),
        ({"width": 250}, (250, 150)),
        ({"height": 90}, (150, 90)),
        ({"width": 90, "height": 90}, (90, 90)),
        ({"width": 50}, (50, 30)),
    ],
)
def test_the_size_follows_from_what_is_asked(fields, size):
    request = bound(**fields)
    assert (request.size.width, request.size.height) == size
    assert request.upscaler == "photos"
    assert request.model == "upscalers/photos"


@pytest.mark.parametrize(
    ("fields", "field", "accepted"),
    [
        ({"scale": 100}, "scale", "1 to 8"),
        ({"scale": 0.5}, "scale", "1 to 8"),
        ({"scale": 2, "width": 100}, "scale", "leave one out"),
        ({"upscaler": "none such"}, "upscaler", "photos, lanczos, nearest"),
        ({"width": 0}, "width", "1 to 16383"),
        ({"steps": 3}, "steps", ""),
    ],
)
def test_what_is_wrong_is_named(fields, field, accepted):
    with pytest.raises(RequestError) as caught:
        bound(**fields)
    assert caught.value.field == field
    assert accepted in caught.value.accepted


def test_an_image_that_would_be_too_large_is_refused_with_the_scale_that_is_possible():
    with pytest.raises(RequestError, match=r"scale is 4\.0; accepted: results of up to 16777216 pixels.*2\.04 times"):
        bound((2000, 2000), scale=4)
    with pytest.raises(RequestError, match="too large itself"):
        bound((6000, 6000), scale=1)


@pytest.mark.parametrize(("source", "shown"), [((8192, 1), "16384x2"), ((1, 8192), "2x16384"), ((8192, 1), "65536x8")])
def test_a_side_that_a_format_does_not_have_is_refused(source, shown):
    scale = 8 if shown.startswith("65536") else 2
    with pytest.raises(
        RequestError,
        match=rf"16383 a side, such as 4096x4096; this would be {shown}, and .* can be enlarged 1\.99 times",
    ):
        bound(source, scale=scale)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(1, 16383), (16383, 1)])
def test_the_longest_result_can_be_had_in_every_format(name, shape):
    width, height = shape
    request = bound((1, 1), width=width, height=height)
    assert (request.size.width, request.size.height) == shape
    stored = encode_png(np.zeros((height, width, 3), np.uint8), "")
    assert Image.open(io.BytesIO(encode_as(stored, FORMATS[name]))).size == shape


def test_a_stored_request_is_read_as_what_it_was():
    for request in (bound(scale=2), generation()):
        assert read_request(request.model_dump_json()) == request
    assert isinstance(read_request(bound().model_dump_json()), UpscaleRequest)
    assert isinstance(read_request(generation().model_dump_json()), GenerationRequest)
    for damaged in ("", "[]", "null", '{"task": "paint"}', '{"task": "upscale"}', '{"task": 3}'):
        assert read_request(damaged) is None


def test_a_stored_request_that_is_too_large_today_is_read():
    stored = bound().model_dump_json().replace('"scale":null', '"scale":50.0')
    assert read_request(stored) is not None


class Repeat:
    tile, scale = 64, 2

    def enlarge(self, tile):
        return tile.repeat(2, 0).repeat(2, 1)


def png(width, height):
    file = io.BytesIO()
    Image.effect_noise((width, height), 50).convert("RGB").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("upscaler", ["photos", "lanczos"])
def test_every_step_is_counted_before_it_is_made(upscaler):
    request = bound((100, 60), scale=3, upscaler=upscaler)
    *steps, image = upscale(request, {"image": png(100, 60)}, lambda name: Repeat())
    total = upscale_cost(request, 2 if upscaler == "photos" else 1).calls
    assert [(step.index, step.total) for step in steps] == [(i + 1, total) for i in range(total)]
    assert all(isinstance(step, TileStep) for step in steps)
    assert image.shape == (180, 300, 3)


def test_the_image_says_what_enlarged_it():
    pixels = np.zeros((120, 200, 3), np.uint8)
    marked = upscaled_png(pixels, bound(), mark=True)
    with Image.open(io.BytesIO(marked)) as image:
        assert "Postprocess upscale by: 2, Postprocess upscaler: photos" in image.text["parameters"]
    assert b"compositeWithTrainedAlgorithmicMedia" in marked
    assert b"AlgorithmicMedia" not in upscaled_png(pixels, bound(upscaler="lanczos"), mark=True)
