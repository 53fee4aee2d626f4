"""Images of the bundled model by every scheduler, held against those of diffusers' pipelines in fp32 from the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image

from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.request import bind
from server.pipeline.schedulers import NoiseSchedule
from server.pipeline.stable_diffusion import StableDiffusion
from server.settings import BUNDLED_MODEL
from tests.support.comparison import psnr
from tests.support.diffusers_schedulers import PEERS, BrownianPath, peer
from tests.support.image_files import encoded

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")]

FIELDS: dict[str, Any] = {"prompt": "a red circle on a blue background", "negative_prompt": "", "guidance_scale": 3}
STEPS, SEED = 8, 11


@pytest.fixture(scope="module")
def ours(bundled_folder):
    return StableDiffusion(bundled_folder, {})


@pytest.fixture(scope="module")
def theirs():
    pipeline = StableDiffusionPipeline.from_pretrained(BUNDLED_MODEL, torch_dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def prepared(scheduler: Any, generator: torch.Generator) -> Any:
    """Give DPM++ SDE its Brownian path from the pipeline's generator; diffusers' own has a seed of its own."""
    if hasattr(scheduler, "noise_sampler"):
        made = scheduler.set_timesteps

        def set_timesteps(*args: Any, **kwargs: Any) -> None:
            made(*args, **kwargs)
            scheduler.noise_sampler = BrownianPath(lambda: torch.randn((1, 4, 32, 32), generator=generator))

        scheduler.set_timesteps = set_timesteps
    return scheduler


def image_of(model: StableDiffusion, source: bytes | None = None, **fields: Any) -> np.ndarray:
    request = bind(
        model.manifest, seed=SEED, steps=STEPS, **FIELDS, **fields, image=None if source is None else "image"
    )
    attachments = {} if source is None else {"image": source}
    (image,) = [e for e in model.generate(request, attachments) if isinstance(e, GeneratedImage)]
    return image.pixels


def their_image(pipeline: Any, model: StableDiffusion, name: str, sigmas: str, **extra: Any) -> np.ndarray:
    generator = torch.Generator("cpu").manual_seed(SEED)
    pipeline.scheduler = prepared(peer(name, NoiseSchedule.of(model.manifest), sigmas), generator)
    # The pipeline's eta is 0, and means to TCD what it calls gamma; its authors' is 0.3.
    eta = {"eta": 0.3} if name == "tcd" else {}
    made = pipeline(**FIELDS, num_inference_steps=STEPS, generator=generator, output_type="np", **eta, **extra)
    return made.images[0] * 255


@pytest.mark.parametrize(
    ("name", "sigmas"),
    [*((name, "automatic") for name in PEERS), ("dpm++_2m", "karras"), ("euler", "exponential"), ("unipc", "beta")],
)
def test_an_image_is_the_one_diffusers_makes(ours, theirs, name, sigmas):
    expected = their_image(theirs, ours, name, sigmas)
    actual = image_of(ours, scheduler=name, sigmas=sigmas)
    assert psnr(actual, expected) > 35


@pytest.mark.parametrize("name", ["ddim", "euler_a", "heun", "dpm++_2m_sde", "unipc", "lcm"])
def test_an_image_from_an_image_is_the_one_diffusers_makes(ours, theirs, name):
    source = np.zeros((256, 256, 3), np.uint8) + np.asarray([30, 60, 200], np.uint8)
    source[80:180, 80:180] = (240, 220, 20)
    pipeline = StableDiffusionImg2ImgPipeline(**theirs.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    expected = their_image(pipeline, ours, name, "automatic", image=Image.fromarray(source), strength=0.6)
    actual = image_of(ours, encoded(Image.fromarray(source)), scheduler=name, strength=0.6)
    assert psnr(actual, expected) > 35
