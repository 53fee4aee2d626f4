"""Classifier-free guidance against diffusers' and k-diffusion's formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from server.pipeline.denoising.guidance import Guidance, rescaled
from server.pipeline.request.sampling import SigmaInterval


def _predictions(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 4, 8, 8)).astype(np.float32)


def test_the_result_goes_from_the_negative_prompt_beyond_the_prompt():
    negative, positive = _predictions(2)[:1], _predictions(2)[1:]
    guided = Guidance(7.5).combine(negative, positive, (1.0,))
    np.testing.assert_allclose(guided, negative + 7.5 * (positive - negative), rtol=1e-5, atol=1e-5)


def test_several_prompts_count_by_their_weights():
    rows = _predictions(3)
    guided = Guidance(3.0).combine(rows[:1], rows[1:], (0.7, 0.2))
    expected = rows[:1] + 3 * (0.7 * (rows[1:2] - rows[:1]) + 0.2 * (rows[2:] - rows[:1]))
    np.testing.assert_allclose(guided, expected, rtol=1e-5, atol=1e-5)


def test_without_guidance_prompts_are_averaged_by_their_weights_and_one_to_avoid_is_left_out():
    first, second = rows = _predictions(2)
    unguided = Guidance(1.0).without_negative
    np.testing.assert_array_equal(unguided(rows[:1], (0.3,)), rows[:1])
    np.testing.assert_allclose(unguided(rows, (3.0, 1.0))[0], 0.75 * first + 0.25 * second, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(unguided(rows, (2.0, -2.0))[0], first, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(unguided(rows, (-1.0, 0.0))[0], rows.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_contrast_is_brought_back_as_diffusers_does(share):
    guided, positive = 3 * _predictions(2)[:1], _predictions(2)[1:]
    expected = rescale_noise_cfg(torch.from_numpy(guided), torch.from_numpy(positive), share).numpy()
    np.testing.assert_allclose(rescaled(guided, positive, share), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("sigma", "applies"), [(6.0, False), (5.0, True), (1.0, True), (0.5, True), (0.4, False)])
def test_guidance_applies_between_its_first_and_last_noise_level(sigma, applies):
    assert SigmaInterval(5.0, 0.5).contains(sigma) is applies
    assert SigmaInterval().contains(sigma)
