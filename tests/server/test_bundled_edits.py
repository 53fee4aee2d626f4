"""What the bundled model paints into, around and from an image, judged by the pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from demo.pixels import look
from demo.scenes import Scene, Thing, draw
from server.pipeline.canvas.attachments import kept
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.images import Pixels, read_image, resize_and_crop
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.image_files import encoded

pytestmark = pytest.mark.slow

CIRCLE = draw(Scene((Thing("circle", "red", "center"),), "blue"), np.random.default_rng(0))


@pytest.fixture(scope="module")
def model(bundled_folder):
    return StableDiffusion(bundled_folder, {})


def images_of(
    model: StableDiffusion, pixels: Pixels | None = None, mask: Pixels | None = None, **fields: Any
) -> list[Pixels]:
    arrays = {"image": pixels, "mask": mask}
    files = {name: encoded(Image.fromarray(array)) for name, array in arrays.items() if array is not None}
    size = None if pixels is None else (pixels.shape[1], pixels.shape[0])
    defaults = {"steps": 10, "seed": 1, **{name: name for name in files}}
    request = bind(model.manifest, image_size=size, **(defaults | fields))
    parts = {name: kept(request, name, read_image(data), data, size).data for name, data in files.items()}
    return [event.pixels for event in model.generate(request, parts) if isinstance(event, GeneratedImage)]


def shown(pixels: Pixels) -> tuple[str, list[tuple[str, str, str]]]:
    ground, things = look(pixels)
    return ground, [(thing.color, thing.shape, thing.place) for thing in things]


def test_a_square_is_painted_over_a_circle_and_the_rest_is_left_alone(model):
    mask = np.zeros((256, 256), np.uint8)
    mask[64:192, 64:192] = 255
    (image,) = images_of(model, CIRCLE, mask, prompt="a green square on a blue background")
    assert shown(image) == ("blue", [("green", "square", "center")])
    # The default blur of 4 pixels ends 12 pixels away.
    untouched = np.ones((256, 256), bool)
    untouched[50:206, 50:206] = False
    np.testing.assert_array_equal(image[untouched], CIRCLE[untouched])


def test_a_small_part_is_painted_in_its_own_box(model):
    large = np.asarray(Image.fromarray(CIRCLE).resize((512, 512), Image.Resampling.LANCZOS))
    mask = np.zeros((512, 512), np.uint8)
    mask[20:148, 20:148] = 255
    (image,) = images_of(
        model, large, mask, prompt="a yellow star on a blue background", only_masked=True, mask_padding=16
    )
    assert set(shown(np.asarray(Image.fromarray(image).resize((256, 256))))[1]) == {
        ("red", "circle", "center"),
        ("yellow", "star", "top left"),
    }
    np.testing.assert_array_equal(image[200:], large[200:])


def test_an_extended_image_keeps_its_pixels_and_goes_on_in_its_grounds_color(model):
    (image,) = images_of(model, CIRCLE, prompt="a yellow star on the right on a blue background", extend_right=128)
    assert image.shape == (256, 384, 3)
    np.testing.assert_array_equal(image[:, :240], CIRCLE[:, :240])
    ground, things = shown(np.ascontiguousarray(image[:, 128:]))
    assert ground == "blue"
    assert ("yellow", "star", "right") in things
    assert np.abs(image[:, 370:].mean((0, 1)) - CIRCLE[:, :20].mean((0, 1))).max() < 8


def test_a_low_strength_keeps_the_layout_and_a_high_one_follows_the_prompt(model):
    prompt = "a yellow star on a green background"
    (low,), (high,) = (images_of(model, CIRCLE, prompt=prompt, strength=strength) for strength in (0.3, 0.9))
    ground, ((_, _, place),) = shown(low)
    assert (ground, place) == ("blue", "center")
    assert shown(high) == ("green", [("yellow", "star", "center")])


def test_variations_differ_and_keep_the_grounds_color_and_the_place(model):
    first, second = images_of(model, CIRCLE, prompt="", strength=0.6, n=2)
    for image in (first, second):
        ground, things = shown(image)
        assert (ground, [place for _, _, place in things]) == ("blue", ["center"])
        assert np.abs(image.astype(int) - CIRCLE).mean() > 1
    assert np.abs(first.astype(int) - second).mean() > 1


@pytest.mark.parametrize("size", [(300, 200), (777, 512), (64, 90)])
def test_an_image_of_any_size_shows_the_prompt(model, size):
    (image,) = images_of(model, prompt="a red circle on a blue background", width=size[0], height=size[1])
    assert image.shape == (size[1], size[0], 3)
    side = min(size)
    middle = Image.fromarray(resize_and_crop(Image.fromarray(image), side, side)).resize((256, 256))
    assert shown(np.asarray(middle)) == ("blue", [("red", "circle", "center")])


def test_an_image_that_hardly_changes_keeps_its_framing_at_an_odd_size(model):
    (image,) = images_of(model, CIRCLE, prompt="a red circle on a blue background", strength=0.1, width=300, height=200)
    expected = resize_and_crop(Image.fromarray(CIRCLE), 300, 200).astype(int)
    assert np.abs(image - expected).mean() < 4
    for shift in ((0, 6), (6, 0)):
        assert np.abs(image - np.roll(expected, shift, (0, 1))).mean() > np.abs(image - expected).mean()
