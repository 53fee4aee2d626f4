"""Stable Diffusion XL and its refiner from converted packages against diffusers' pipelines."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

from converter.conversion.convert import convert
from converter.options import ConvertOptions
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.checkpoints import write_xl_checkpoint, xl_parts
from tests.support.mil_packages import psnr

pytestmark = pytest.mark.slow


def pair(folder, kind, **options):
    source = write_xl_checkpoint(folder / "source", refiner=kind is StableDiffusionXLImg2ImgPipeline)
    made = convert(source, folder / "out", ConvertOptions(**options))
    extra = {"requires_aesthetics_score": True} if kind is StableDiffusionXLImg2ImgPipeline else {}
    theirs = kind(
        **xl_parts(source),
        scheduler=EulerDiscreteScheduler.from_pretrained(source / "scheduler"),
        force_zeros_for_empty_prompt=made.manifest.conditions.zeros_for_no_prompt,
        add_watermarker=False,
        **extra,
    )
    theirs.set_progress_bar_config(disable=True)
    return StableDiffusion(made, {}), theirs


def image_of(model, image=None, **fields):
    request = bind(model.manifest, **fields, image=None if image is None else "image")
    return next(e for e in model.generate(request, {"image": image}) if isinstance(e, GeneratedImage)).pixels


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return pair(tmp_path_factory.mktemp("xl"), StableDiffusionXLPipeline, batches=(1, 2))


@pytest.mark.parametrize("negative", ["", "blue"], ids=["no negative prompt", "a negative prompt"])
@pytest.mark.parametrize("scale", [5.0, 1.0], ids=["guided", "not guided"])
def test_an_xl_image_is_the_one_diffusers_makes(base, negative, scale):
    ours, theirs = base
    actual = image_of(
        ours, prompt="red", negative_prompt=negative, steps=4, guidance_scale=scale, seed=5, scheduler="euler"
    )
    expected = theirs(
        "red",
        negative_prompt=negative or None,
        num_inference_steps=4,
        guidance_scale=scale,
        generator=torch.Generator("cpu").manual_seed(5),
        output_type="np",
    ).images[0]
    assert psnr(actual, expected * 255) > 40


def test_guidance_takes_the_unet_of_two_rows_and_none_that_of_one(base):
    ours, _ = base
    for scale, rows in ((5.0, 2), (1.0, 1)):
        image_of(ours, prompt="red", steps=1, guidance_scale=scale, seed=5)
        assert ours.network("unet", 64, 64, batch=rows).inputs["sample"].shape[0] == rows


def test_the_refiner_makes_of_an_image_what_diffusers_makes(tmp_path):
    ours, theirs = pair(tmp_path, StableDiffusionXLImg2ImgPipeline)
    assert ours.manifest.family == "sdxl_refiner"
    first = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    file = io.BytesIO()
    first.save(file, "PNG")
    fields = {"steps": 6, "guidance_scale": 5, "seed": 3, "scheduler": "euler", "strength": 0.6}
    actual = image_of(ours, prompt="red", image=file.getvalue(), **fields)
    expected = theirs(
        "red",
        image=first,
        strength=0.6,
        num_inference_steps=6,
        guidance_scale=5,
        generator=torch.Generator("cpu").manual_seed(3),
        output_type="np",
    ).images[0]
    assert psnr(actual, expected * 255) > 40
