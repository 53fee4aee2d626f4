"""Hires fix with the bundled model, judged by the pixels: the same scene at twice the size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from demo.pixels import look
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.images import Pixels, resize_pixels
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(bundled_folder):
    return StableDiffusion(bundled_folder, {})


def made(model: StableDiffusion, **fields: Any) -> Pixels:
    request = bind(model.manifest, prompt="a red circle on a blue background", seed=7, steps=10, **fields)
    (image,) = (event.pixels for event in model.generate(request, {}) if isinstance(event, GeneratedImage))
    return image


def halved(pixels: Pixels) -> Pixels:
    height, width, _ = pixels.shape
    return np.asarray(Image.fromarray(pixels).resize((width // 2, height // 2), Image.Resampling.BOX))


def sharpness(pixels: Pixels) -> float:
    return float(np.square(np.diff(pixels.astype(np.float64).mean(2), axis=1)).mean())


def test_the_second_pass_makes_the_same_scene_at_twice_the_size_and_sharper(model):
    first, large = made(model), made(model, hires_scale=2, hires_steps=3)
    assert large.shape == (512, 512, 3)
    ground, things = look(halved(large))
    assert (ground, [(thing.color, thing.shape, thing.place) for thing in things]) == (
        "blue",
        [("red", "circle", "center")],
    )
    assert np.abs(halved(large).astype(int) - first).mean() < 6
    assert sharpness(large) > 1.2 * sharpness(resize_pixels(first, 512, 512))
