"""Random numbers as others draw them, against values they publish and their own generators."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from server.pipeline.noise import ImageNoise, NumpyGenerator, slerp
from server.pipeline.philox import PhiloxGenerator, philox
from server.pipeline.request import RNGS, ImageSeeds

SHAPE = (1, 4, 8, 8)


def first(rng: str, seed: int) -> np.ndarray:
    return ImageNoise(rng, ImageSeeds(seed, None), 0.0, SHAPE).start()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (0xFFFFFFFF, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ],
)
def test_philox_gives_the_published_words(word, expected):
    """The known answers of Random123 (kat_vectors, philox4x32 of ten rounds)."""
    actual = philox([np.asarray([word], np.uint32)] * 4, (word, word))
    assert " ".join(f"{int(w[0]):08x}" for w in actual) == expected


def test_the_gpu_generator_gives_what_a1111_documents():
    """modules/rng_philox.py of stable-diffusion-webui states these of seed 0."""
    expected = [
        [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
        [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
        [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
    ]
    np.testing.assert_allclose(PhiloxGenerator(0).normal((3, 4)), expected, rtol=2e-6)


def test_the_gpu_generators_tensors_follow_one_another_and_are_normal():
    generator = PhiloxGenerator(123456789)
    one, two = generator.normal((4, 64, 64)), generator.normal((4, 64, 64))
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.03
    for drawn in (one, two):
        assert abs(drawn.mean()) < 0.03
        assert abs(drawn.std() - 1) < 0.03


def test_the_numpy_generator_gives_what_apples_tests_expect():
    """StableDiffusionTests.swift of ml-stable-diffusion: the last of 10,000 numbers of seed 12345."""
    expected = [-0.86285345, 2.15229409, -0.00670556, -1.21472309, 0.65498866]
    np.testing.assert_allclose(NumpyGenerator(12345).normal((10_000,))[-5:], expected, atol=1e-7)


def test_the_torch_generator_goes_on_from_noise_to_steps_as_diffusers_does():
    theirs = torch.Generator("cpu").manual_seed(9)
    noise = ImageNoise("torch", ImageSeeds(9, None), 0.0, SHAPE)
    for drawn in (noise.start(), noise.step(), noise.step()):
        np.testing.assert_array_equal(drawn, torch.randn(SHAPE, generator=theirs).numpy())


def test_a_first_image_is_placed_before_the_noise_with_torch_and_after_it_with_numpy():
    draws = {rng: first(rng, 7) for rng in RNGS}
    ours = {rng: ImageNoise(rng, ImageSeeds(7, None), 0.0, SHAPE) for rng in RNGS}
    placed = {rng: noise.encoding() for rng, noise in ours.items()}
    np.testing.assert_array_equal(placed["torch"], draws["torch"])
    np.testing.assert_array_equal(ours["numpy"].start(), draws["numpy"])
    np.testing.assert_array_equal(ours["cuda"].start(), draws["cuda"])
    assert not placed["cuda"].any()
    assert (placed["numpy"] != draws["numpy"]).any()


def test_apples_ancestral_steps_begin_again_from_the_seed_and_the_others_go_on():
    for rng in RNGS:
        noise = ImageNoise(rng, ImageSeeds(7, None), 0.0, SHAPE)
        assert (noise.start() == noise.step()).all() == (rng == "numpy")


def a1111_slerp(val, low, high):
    """What stable-diffusion-webui's modules/rng.py computes, on one image's [C, H, W]."""
    low_norm, high_norm = (x / torch.norm(x, dim=1, keepdim=True) for x in (low, high))
    omega = torch.acos((low_norm * high_norm).sum(1))
    weights = [(torch.sin(share * omega) / torch.sin(omega)).unsqueeze(1) for share in (1 - val, val)]
    return weights[0] * low + weights[1] * high


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("rng", RNGS)
def test_a_variation_turns_the_noise_as_a1111_does(rng, strength):
    noise = ImageNoise(rng, ImageSeeds(1, 2), strength, SHAPE)
    low, high = (torch.from_numpy(first(rng, seed)[0]) for seed in (1, 2))
    np.testing.assert_allclose(noise.start()[0], a1111_slerp(strength, low, high).numpy(), atol=2e-5)


def test_a_variation_of_a_seed_by_itself_is_the_seed():
    noise = first("torch", 3)
    np.testing.assert_array_equal(slerp(0.4, noise, noise.copy()), noise)
