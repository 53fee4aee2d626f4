"""Parts of images painted again: latents beside diffusers' inpainting pipeline, pixels beside the image that was sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionInpaintPipeline,
)
from PIL import Image

from converter.conversion.convert import convert
from converter.options import ConvertOptions
from server.pipeline.canvas.attachments import kept
from server.pipeline.denoising.denoiser import GeneratedImage, Step
from server.pipeline.images import read_image
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.checkpoints import diffusers_pipeline, tiny_unet, write_checkpoint
from tests.support.comparison import psnr
from tests.support.image_files import encoded

pytestmark = pytest.mark.slow

PEERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_a": EulerAncestralDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
    "dpm++_2m": DPMSolverMultistepScheduler,
}
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
#: Edges between latents, so that the mask of the latents is that of the pixels.
ALIGNED = np.zeros((64, 64), np.uint8)
ALIGNED[16:48, 8:40] = 255
#: Edges within latents.
CROSSING = np.zeros((64, 64), np.uint8)
CROSSING[13:50, 5:43] = 255


@pytest.fixture(scope="module", params=[4, 9], ids=["4 channels", "9 channels"])
def pair(request, tmp_path_factory):
    """Our pipeline and diffusers', of one random checkpoint, and the channels that its UNet takes."""
    folder = tmp_path_factory.mktemp("inpainting")
    source = write_checkpoint(folder / "source", unet=tiny_unet(in_channels=request.param))
    ours = StableDiffusion(convert(source, folder / "out", ConvertOptions()), {})
    theirs = StableDiffusionInpaintPipeline(**diffusers_pipeline(source).components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    return ours, theirs, request.param


def events(model, pixels=PIXELS, mask=None, **fields):
    files = {"image": encoded(Image.fromarray(pixels))}
    if mask is not None:
        files["mask"] = encoded(Image.fromarray(mask))
    size = pixels.shape[1::-1]
    request = bind(model.manifest, image_size=size, **{name: name for name in files}, **fields)
    parts = {name: kept(request, name, read_image(data), data, size).data for name, data in files.items()}
    return list(model.generate(request, parts))


def images_of(model, *args, **fields):
    return [
        e.pixels
        for e in events(model, *args, **{"prompt": "red", "steps": 3, "seed": 7, **fields})
        if isinstance(e, GeneratedImage)
    ]


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("scheduler", PEERS)
def test_what_is_painted_is_what_diffusers_paints(pair, scheduler, strength):
    ours, theirs, channels = pair
    mask = ALIGNED if channels == 4 else CROSSING
    (actual,) = images_of(
        ours,
        PIXELS,
        mask,
        steps=6,
        seed=3,
        guidance_scale=5,
        scheduler=scheduler,
        strength=strength,
        mask_blur=0,
        keep_unmasked=False,
    )
    theirs.scheduler = PEERS[scheduler].from_config(theirs.scheduler.config)
    expected = theirs(
        "red",
        image=Image.fromarray(PIXELS),
        mask_image=Image.fromarray(mask),
        height=64,
        width=64,
        num_inference_steps=6,
        guidance_scale=5,
        strength=strength,
        generator=torch.Generator("cpu").manual_seed(3),
        output_type="np",
    ).images[0]
    assert psnr(actual, expected * 255) > 40


@pytest.mark.parametrize(
    "fields", [{}, {"only_masked": True, "mask_padding": 4}, {"mask_fill": "fill", "strength": 0.5}]
)
def test_what_the_blurred_mask_leaves_out_is_kept_to_the_bit(pair, fields):
    ours, _, _ = pair
    (painted,) = images_of(ours, PIXELS, CROSSING, mask_blur=2, **fields)
    far = np.zeros((64, 64), bool)
    far[:6], far[57:], far[:, 50:] = True, True, True
    np.testing.assert_array_equal(painted[far], PIXELS[far])
    assert (painted[25:40, 15:30] != PIXELS[25:40, 15:30]).mean() > 0.9


def test_an_inverted_mask_paints_the_rest(pair):
    ours, _, _ = pair
    (painted,) = images_of(ours, PIXELS, ALIGNED, mask_blur=0, invert_mask=True)
    np.testing.assert_array_equal(painted[ALIGNED > 0], PIXELS[ALIGNED > 0])
    (other,) = images_of(ours, PIXELS, 255 - ALIGNED, mask_blur=0)
    np.testing.assert_array_equal(painted, other)


def test_a_masks_box_is_computed_at_the_models_full_size(pair):
    ours, _, _ = pair
    large = np.asarray(Image.fromarray(PIXELS).resize((256, 192), Image.Resampling.BICUBIC))
    mask = np.zeros((192, 256), np.uint8)
    mask[100:140, 180:220] = 255
    (painted,) = images_of(ours, large, mask, mask_blur=0, only_masked=True, mask_padding=8)
    assert painted.shape == (192, 256, 3)
    np.testing.assert_array_equal(painted[mask == 0], large[mask == 0])
    (whole,) = images_of(ours, large, mask, mask_blur=0, only_masked=True, mask_padding=8, keep_unmasked=False)
    changed = np.flatnonzero((whole != large).any((1, 2)))
    assert (changed.min(), changed.max()) == (92, 147)


def test_images_of_a_batch_have_their_seeds_and_share_what_is_kept(pair):
    ours, _, _ = pair
    first, second = images_of(ours, PIXELS, ALIGNED, mask_blur=0, n=2)
    (alone,) = images_of(ours, PIXELS, ALIGNED, mask_blur=0, seed=8)
    np.testing.assert_array_equal(second, alone)
    assert (first[ALIGNED > 0] != second[ALIGNED > 0]).any()
    for rng in ("numpy", "cuda"):
        (other,) = images_of(ours, PIXELS, ALIGNED, mask_blur=0, rng=rng)
        assert (first[ALIGNED > 0] != other[ALIGNED > 0]).any()


@pytest.mark.parametrize("pair", [4], indirect=True)
def test_what_the_painted_part_starts_from_matters_below_strength_1(pair):
    ours, _, _ = pair
    fills = [
        images_of(ours, PIXELS, ALIGNED, strength=0.4, mask_fill=fill)[0]
        for fill in ("original", "fill", "noise", "nothing")
    ]
    for i, one in enumerate(fills):
        for other in fills[:i]:
            assert (one[ALIGNED > 0] != other[ALIGNED > 0]).any()


@pytest.mark.parametrize("pair", [4], indirect=True)
def test_gray_paints_in_the_last_steps_alone(pair):
    ours, _, _ = pair
    gray = ALIGNED // 2
    (soft,) = images_of(ours, PIXELS, gray, steps=4, mask_blur=0, keep_unmasked=False)
    (hard,) = images_of(ours, PIXELS, ALIGNED, steps=4, mask_blur=0, keep_unmasked=False)
    (encoded_only,) = images_of(
        ours, PIXELS, np.where(ALIGNED, 1, 0).astype(np.uint8), steps=4, mask_blur=0, keep_unmasked=False
    )
    inside = ALIGNED > 0
    assert psnr(soft[inside], encoded_only[inside]) > psnr(hard[inside], encoded_only[inside])
    assert (soft[inside] != encoded_only[inside]).any()


@pytest.mark.parametrize(
    ("extension", "boxes"),
    [({"extend_right": 20}, 1), ({"extend_left": 8, "extend_top": 40}, 3), ({"extend_bottom": 100}, 3)],
)
def test_an_extended_image_is_larger_and_old_pixels_stay(pair, extension, boxes):
    ours, _, _ = pair
    steps = events(ours, PIXELS, prompt="red", steps=2, seed=1, feather=6, **extension)
    (image,) = (e.pixels for e in steps if isinstance(e, GeneratedImage))
    left, top = extension.get("extend_left", 0), extension.get("extend_top", 0)
    right, bottom = extension.get("extend_right", 0), extension.get("extend_bottom", 0)
    assert image.shape == (64 + top + bottom, 64 + left + right, 3)
    old = image[top : top + 64, left : left + 64]
    inner = np.s_[7 if top else 0 : -7 if bottom else 64, 7 if left else 0 : -7 if right else 64]
    np.testing.assert_array_equal(old[inner], PIXELS[inner])
    counted = [(e.index, e.total) for e in steps if isinstance(e, Step)]
    assert counted == [(i + 1, 2 * boxes) for i in range(2 * boxes)]
