"""Where in a file the infotext is found."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from server.pipeline.encoding.encode import encode_as, encode_png
from server.pipeline.encoding.formats import FORMATS
from server.pipeline.encoding.xmp import source_type
from server.pipeline.infotext import find_infotext, read_infotext, read_request_fields
from tests.support.image_files import encoded

PIXELS = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("text", ['ünï 日本語 🎈 <&>"\nNegative prompt: a, b\nSteps: 3, Sampler: Euler', "Ã©", "plain"])
def test_what_goes_out_is_found_again_in_every_format(name, text):
    found = find_infotext(encode_as(encode_png(PIXELS, text, source_type(has_source=False)), FORMATS[name]))
    assert (found.text, found.unread) == (text, {})


def texts(**named: str) -> bytes:
    info = PngInfo()
    for name, text in named.items():
        info.add_text(name, text)
    return encoded(Image.fromarray(PIXELS), pnginfo=info)


def test_other_texts_of_a_file_are_kept_by_name():
    found = find_infotext(texts(parameters="a cat", workflow='{"nodes": []}', prompt="{}"))
    assert (found.text, found.items) == ("a cat", {"workflow": '{"nodes": []}', "prompt": "{}"})
    assert find_infotext(texts(workflow="{}")).text is None


def test_a_gif_has_it_in_its_comment():
    assert find_infotext(encoded(Image.fromarray(PIXELS), "GIF", comment=b"a cat")).text == "a cat"


NOVELAI = {
    "steps": 28,
    "sampler": "k_dpmpp_2m",
    "seed": 1234,
    "strength": 0.69,
    "scale": 11.0,
    "uc": "lowres, bad anatomy",
    "width": 512,
    "height": 768,
}


def test_what_novelai_says_is_null_is_not_in_the_infotext():
    said = {**NOVELAI, "uc": None, "seed": None}
    found = find_infotext(texts(Software="NovelAI", Description="a cat", Comment=json.dumps(said)))
    assert (
        found.text == "a cat\nSteps: 28, CFG scale: 11.0, Size: 512x768, Sampler: DPM++ 2M, Clip skip: 2, ENSD: 31337"
    )


def test_texts_of_novelai_are_turned_into_an_infotext():
    found = find_infotext(texts(Software="NovelAI", Description="a cat, {{sitting}}", Comment=json.dumps(NOVELAI)))
    assert found.text is not None
    request = read_request_fields(read_infotext(found.text))
    expected = {
        "prompt": "a cat, {{sitting}}",
        "negative_prompt": "lowres, bad anatomy",
        "steps": 28,
        "scheduler": "dpm++_2m",
        "seed": 1234,
        "guidance_scale": 11,
        "width": 512,
        "height": 768,
        "clip_skip": 2,
    }
    assert expected.items() <= request.fields.items()
    assert [each.name for each in request.unused] == ["ENSD"]


@pytest.mark.parametrize("comment", ["", "[1]", "{", "[" * 100_000, '{"steps": {}}'])
def test_other_texts_under_novelai_s_name_do_no_harm(comment):
    found = find_infotext(texts(Software="NovelAI", Description="a cat", Comment=comment))
    assert read_request_fields(read_infotext(found.text or "")).fields["prompt"] in ("", "a cat")
