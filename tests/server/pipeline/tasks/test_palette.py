"""Images in another image's colors, by the pixels of the bundled model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import wasserstein_distance_nd

from server.pipeline.denoising.denoiser import GeneratedImage, Moment
from server.pipeline.palette.extraction import palette_of
from server.pipeline.palette.moments import Moments
from server.pipeline.palette.oklab import to_oklab
from server.pipeline.request import bind
from server.pipeline.schedulers import NoiseSchedule
from server.pipeline.stable_diffusion import StableDiffusion
from server.pipeline.tasks.palette import GuidedByPalette, recolored
from tests.support.fake_pipeline import MANIFEST
from tests.support.image_files import encoded_pixels
from tests.support.predictors import Constant, returned

GREEN, YELLOW = (46, 160, 73), (249, 215, 47)
PROMPT = {"prompt": "a red circle on a blue background", "steps": 12, "seed": 7}


def square(ground, shape, side=256):
    pixels = np.full((side, side, 3), ground, np.uint8)
    pixels[side // 3 : -side // 3, side // 3 : -side // 3] = shape
    return pixels


REFERENCE = square(GREEN, YELLOW)


def distance(first, second):
    """Return how far the colors of one image must move in OKLab to be the other's, each by its share."""
    palettes = [palette_of(pixels) for pixels in (first, second)]
    colors = [to_oklab(np.asarray([color.rgb for color in palette], np.uint8)) for palette in palettes]
    return wasserstein_distance_nd(*colors, *([color.share for color in palette] for palette in palettes))


@pytest.fixture(scope="module")
def bundled(bundled_folder):
    return StableDiffusion(bundled_folder, {})


def image_of(model, *, reference=REFERENCE, image=None, **fields):
    attachments = {}
    for name, pixels in (("palette_image", reference), ("image", image)):
        if pixels is not None:
            attachments[name] = encoded_pixels(pixels)
            fields[name] = name
    request = bind(model.manifest, **PROMPT, **fields)
    return next(e for e in model.generate(request, attachments) if isinstance(e, GeneratedImage)).pixels


@pytest.mark.slow
def test_an_image_takes_the_reference_s_colors_and_keeps_the_shape_of_its_prompt(bundled):
    without = image_of(bundled, palette_strength=0)
    assert np.array_equal(without, image_of(bundled, reference=None))
    guided = image_of(bundled, palette_strength=1)
    assert distance(guided, REFERENCE) < distance(without, REFERENCE) / 5
    # The circle is where it was, and what was red is yellow.
    circle = np.abs(without.astype(int) - (214, 35, 41)).sum(2) < 60
    yellow = np.abs(guided.astype(int) - YELLOW).sum(2) < 120
    assert (circle & yellow).sum() > 0.6 * circle.sum()
    half = image_of(bundled, palette_strength=0.5)
    assert distance(guided, REFERENCE) < distance(half, REFERENCE) < distance(without, REFERENCE)


@pytest.mark.slow
def test_an_image_from_an_image_takes_the_reference_s_colors(bundled):
    source = square((41, 84, 214), (214, 35, 41))
    fields = {"image": source, "strength": 0.4}
    without, guided = (image_of(bundled, palette_strength=strength, **fields) for strength in (0, 1))
    assert distance(guided, REFERENCE) < distance(without, REFERENCE) / 5


def test_a_source_gets_the_reference_s_colors():
    source = square((41, 84, 214), (214, 35, 41))
    wanted = Moments.of(to_oklab(REFERENCE).reshape(-1, 3))
    assert np.abs(recolored(source, wanted, 1.0).astype(int) - REFERENCE).max() <= 3
    assert np.array_equal(recolored(source, wanted, 0.0), source)


def schedule_of(prediction_type):
    return NoiseSchedule.of(replace(MANIFEST, prediction_type=prediction_type))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_denoised_latents_get_the_wanted_moments_whatever_the_model_predicts(prediction_type):
    schedule = schedule_of(prediction_type)
    rng = np.random.default_rng(0)
    noisy, prediction = (rng.standard_normal((1, 4, 8, 8)).astype(np.float32) for _ in range(2))
    wanted = Moments.of(rng.standard_normal((100, 4)).astype(np.float32) + 1)
    moment = Moment(0, 4, 500.0, schedule.sigma_at(500.0))
    guided, untouched = (
        returned(
            GuidedByPalette(Constant(prediction), schedule, wanted, strength).predict(noisy.astype(np.float16), moment)
        )
        for strength in (1.0, 0.0)
    )
    denoised = schedule.denoised_at(500.0, guided, noisy.astype(np.float16).astype(np.float32))
    actual = Moments.of(denoised[0].reshape(4, -1).T)
    assert actual.mean == pytest.approx(wanted.mean, abs=1e-3)
    assert actual.covariance == pytest.approx(wanted.covariance, abs=5e-3)
    assert untouched == pytest.approx(prediction)


def test_a_prediction_that_is_not_finite_is_left_to_the_denoiser():
    broken = np.full((1, 4, 8, 8), np.nan, np.float32)
    schedule = schedule_of("epsilon")
    guided = GuidedByPalette(Constant(broken), schedule, Moments.of(np.eye(4, dtype=np.float32)), 1.0)
    assert returned(guided.predict(np.zeros((1, 4, 8, 8), np.float16), Moment(0, 4, 500.0, 1.0))) is broken
