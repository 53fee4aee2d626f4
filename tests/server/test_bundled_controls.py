"""What the bundled model makes of a control map: where things are and which shape they have, judged by the pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from converter.folder import ModelFolder
from demo.pixels import look
from demo.scenes import Scene, Thing, draw
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.image_files import encoded

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(bundled_folder: ModelFolder) -> StableDiffusion:
    return StableDiffusion(bundled_folder, {})


def drawn(*things: Thing) -> bytes:
    """A drawing in white on black, whose edges are the map."""
    return encoded(Image.fromarray(draw(Scene(things, "black"), np.random.default_rng(0))))


def shown(model: StableDiffusion, prompt: str, *things: Thing, **fields: Any) -> tuple[str, set[tuple[str, str, str]]]:
    """Make an image of a prompt and of the edges of a drawing of ``things``; return what its pixels show."""
    controls = [{"image": "drawing", "preprocessor": "canny"}] if things else []
    request = bind(model.manifest, prompt=prompt, controls=controls, **{"steps": 10, "seed": 3} | fields)
    events = model.generate(request, {"drawing": drawn(*things)} if things else {})
    ground, seen = look(next(event.pixels for event in events if isinstance(event, GeneratedImage)))
    return ground, {(each.color, each.shape, each.place) for each in seen}


@pytest.mark.parametrize("place", ["top left", "bottom right"])
@pytest.mark.parametrize("words", ["a red circle", "a red shape"])
def test_a_map_says_where_a_thing_is_and_the_prompt_its_color(model, words, place):
    prompt = f"{words} on a blue background"
    assert shown(model, prompt, Thing("circle", "white", place)) == ("blue", {("red", "circle", place)})


def test_without_a_map_the_same_prompt_is_in_the_center(model):
    assert shown(model, "a red circle on a blue background") == ("blue", {("red", "circle", "center")})


@pytest.mark.parametrize("shape", ["square", "heart"])
def test_a_map_says_which_shape_a_thing_has_if_the_prompt_does_not(model, shape):
    prompt = "a green shape on a white background"
    assert shown(model, prompt, Thing(shape, "white", "top right")) == ("white", {("green", shape, "top right")})
