"""Images from converted packages against diffusers' pipelines on the same checkpoint."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from PIL import Image

from converter.conversion.convert import convert
from converter.errors import ManifestError
from converter.options import ConvertOptions
from server.pipeline.denoising.denoiser import GeneratedImage, NotFinite, Step, denoise
from server.pipeline.images import ImageError
from server.pipeline.noise import NumpyGenerator
from server.pipeline.philox import PhiloxGenerator
from server.pipeline.request import RequestError, Size, bind
from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.checkpoints import diffusers_pipeline, tiny_unet, write_checkpoint
from tests.support.comparison import psnr
from tests.support.predictors import Constant

pytestmark = pytest.mark.slow

PEERS = {
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "dpm++_2m": (DPMSolverMultistepScheduler, {}),
    "dpm++_2m_karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "heun": (HeunDiscreteScheduler, {}),
    "lms": (LMSDiscreteScheduler, {}),
    "ddim": (DDIMScheduler, {}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "lcm": (LCMScheduler, {}),
}


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def pair(request, tmp_path_factory):
    """Our pipeline and diffusers', of one random checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    source = write_checkpoint(folder / "source", prediction_type=request.param)
    converted = convert(source, folder / "out", ConvertOptions())
    ours = StableDiffusion(converted, {})
    theirs = diffusers_pipeline(source)
    theirs.converted = converted
    theirs.trained_schedule = theirs.scheduler.config
    return ours, theirs


def images_of(model, image=None, **fields):
    request = bind(model.manifest, **fields, image=None if image is None else "image")
    return [e for e in model.generate(request, {"image": image}) if isinstance(e, GeneratedImage)]


def with_scheduler(pipeline, name, schedule):
    kind, extra = PEERS[name]
    pipeline.scheduler = kind.from_config(schedule, **extra)
    return pipeline


@pytest.mark.parametrize("name", PEERS)
def test_an_image_is_the_one_diffusers_makes(pair, name):
    ours, theirs = pair
    (actual,) = images_of(
        ours, prompt="red", negative_prompt="blue", steps=4, guidance_scale=5, seed=11, scheduler=name
    )
    generator = torch.Generator("cpu").manual_seed(11)
    expected = with_scheduler(theirs, name, theirs.trained_schedule)(
        "red", negative_prompt="blue", num_inference_steps=4, guidance_scale=5, generator=generator, output_type="np"
    ).images[0]
    assert psnr(actual.pixels, expected * 255) > 40


def rescaled(theirs, spacing):
    """Our pipeline of the same model, trained to zero terminal SNR, and the settings of it that diffusers' schedulers take."""
    settings = {"rescale_betas_zero_snr": True, "timestep_spacing": spacing}
    manifest = theirs.converted.manifest
    manifest = replace(manifest, scheduler=replace(manifest.scheduler, **settings))
    # diffusers passes over what this list names.
    trained = {key: value for key, value in theirs.trained_schedule.items() if key != "_use_default_values"}
    return StableDiffusion(replace(theirs.converted, manifest=manifest), {}), trained | settings


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("name", ["euler", "euler_a", "dpm++_2m", "ddim", "lcm"])
def test_an_image_of_a_zero_terminal_snr_model_is_the_one_diffusers_makes(pair, name, spacing):
    _, theirs = pair
    ours, schedule = rescaled(theirs, spacing)
    fields = {"prompt": "red", "negative_prompt": "blue", "steps": 4, "guidance_scale": 3, "seed": 11}
    if ours.manifest.prediction_type == "epsilon" and (spacing == "trailing" or name == "lcm"):
        with pytest.raises(RequestError, match="pure noise"):
            bind(ours.manifest, scheduler=name, **fields)
        return
    (actual,) = images_of(ours, scheduler=name, **fields)
    expected = with_scheduler(theirs, name, schedule)(
        "red",
        negative_prompt="blue",
        num_inference_steps=4,
        guidance_scale=3,
        generator=torch.Generator("cpu").manual_seed(11),
        output_type="np",
    ).images[0]
    assert psnr(actual.pixels, expected * 255) > 40


@pytest.mark.parametrize("pair", ["v_prediction"], indirect=True)
def test_the_first_preview_of_pure_noise_is_finite(pair):
    ours, _ = rescaled(pair[1], "trailing")
    request = bind(ours.manifest, prompt="red", steps=3, seed=1, scheduler="euler")
    step = next(event for event in ours.generate(request, {}) if isinstance(event, Step))
    assert 0 < np.abs(step.denoised.astype(np.float16)).max() < 100
    assert ours.preview(step, request)


@pytest.mark.parametrize("name", ["euler", "ddim", "dpm++_2m", "heun"])
def test_an_image_from_an_image_is_the_one_diffusers_makes(pair, name):
    ours, theirs = pair
    first = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    file = io.BytesIO()
    first.save(file, "PNG")
    fields = {"prompt": "red", "steps": 6, "guidance_scale": 5, "seed": 3, "scheduler": name, "strength": 0.6}
    (actual,) = images_of(ours, image=file.getvalue(), **fields)
    img2img = StableDiffusionImg2ImgPipeline(**theirs.components, requires_safety_checker=False)
    img2img.set_progress_bar_config(disable=True)
    expected = with_scheduler(img2img, name, theirs.trained_schedule)(
        "red",
        image=first,
        strength=0.6,
        num_inference_steps=6,
        guidance_scale=5,
        generator=torch.Generator("cpu").manual_seed(3),
        output_type="np",
    ).images[0]
    assert psnr(actual.pixels, expected * 255) > 40


def test_without_guidance_the_prompt_alone_decides(pair):
    ours, theirs = pair
    (actual,) = images_of(
        ours, prompt="red", negative_prompt="blue", steps=2, guidance_scale=1, seed=5, scheduler="ddim"
    )
    generator = torch.Generator("cpu").manual_seed(5)
    expected = with_scheduler(theirs, "ddim", theirs.trained_schedule)(
        "red", num_inference_steps=2, guidance_scale=1, generator=generator, output_type="np"
    ).images[0]
    assert psnr(actual.pixels, expected * 255) > 40


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others(pair):
    ours, _ = pair
    a, b, c = (images_of(ours, prompt="red", steps=2, seed=s)[0].pixels for s in (7, 7, 8))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_image_i_of_several_is_the_one_its_seed_makes_alone(pair):
    ours, _ = pair
    several = images_of(ours, prompt="red", steps=2, seed=2**32 - 1, n=2)
    assert [p.seeds.seed for p in several] == [2**32 - 1, 0]
    alone = images_of(ours, prompt="red", steps=2, seed=0)[0]
    np.testing.assert_array_equal(several[1].pixels, alone.pixels)


@pytest.mark.parametrize(
    ("rng", "noise"), [("numpy", NumpyGenerator), ("cuda", PhiloxGenerator)], ids=["Apple's", "A1111's on a GPU"]
)
def test_an_image_of_others_noise_is_the_one_diffusers_makes_of_it(pair, rng, noise):
    ours, theirs = pair
    (actual,) = images_of(ours, prompt="red", steps=3, guidance_scale=5, seed=11, scheduler="euler", rng=rng)
    expected = with_scheduler(theirs, "euler", theirs.trained_schedule)(
        "red",
        latents=torch.from_numpy(noise(11).normal((1, 4, 8, 8))),
        num_inference_steps=3,
        guidance_scale=5,
        output_type="np",
    ).images[0]
    assert psnr(actual.pixels, expected * 255) > 40


def test_a_variation_lies_between_two_seeds(pair):
    ours, _ = pair
    fields = {"prompt": "red", "steps": 2, "seed": 1}
    (near,) = images_of(ours, **fields)
    (whole,) = images_of(ours, **fields, variation_seed=2, variation_strength=1)
    (half,) = images_of(ours, **fields, variation_seed=2, variation_strength=0.5)
    (far,) = images_of(ours, **(fields | {"seed": 2}))
    np.testing.assert_allclose(whole.pixels.astype(int), far.pixels, atol=1)
    for end in (near, far):
        assert psnr(half.pixels, end.pixels) > psnr(near.pixels, far.pixels)


def test_steps_are_counted_from_one_to_their_total(pair):
    ours, _ = pair
    events = list(ours.generate(bind(ours.manifest, prompt="red", steps=3, seed=1), {}))
    assert [(e.index, e.total) for e in events if isinstance(e, Step)] == [(1, 3), (2, 3), (3, 3)]
    assert isinstance(events[-1], GeneratedImage)


def test_a_network_that_overflows_is_reported_at_its_step():
    overflowing = Constant(np.full((1, 4, 2, 2), np.inf, np.float32))
    schedule = NoiseSchedule(1000, 0.00085, 0.012, "scaled_linear", "leading", 1, False, prediction_type="epsilon")
    scheduler = SCHEDULERS["euler"].make(schedule, 3)
    latents = np.zeros((1, 4, 2, 2), np.float32)
    with pytest.raises(NotFinite, match="step 1 of 3"):
        list(denoise(overflowing, schedule, scheduler, latents, 0, lambda: latents))


def test_networks_of_a_size_are_loaded_when_it_is_first_asked_for(model_folder):
    loaded = []

    def loader(path, function, units):
        from converter.runtime import load

        loaded.append((path.name, units))
        return load(path)

    model = StableDiffusion(model_folder, {"default": "ALL", "unet": "CPU_AND_GPU"}, loader)
    model.load()
    assert [units for _, units in loaded] == ["ALL", "CPU_AND_GPU", "ALL"]
    request = bind(model.manifest, prompt="red", width=96, height=64, steps=1, seed=1)
    (image,) = (e for e in model.generate(request, {}) if isinstance(e, GeneratedImage))
    assert image.pixels.shape == (64, 96, 3)
    assert len(loaded) == 5


def test_a_network_that_this_release_does_not_know_is_left_alone(model_folder):
    networks = model_folder.manifest.networks
    manifest = replace(model_folder.manifest, networks={"of_a_later_release": networks["vae_decoder"], **networks})
    ours = StableDiffusion(replace(model_folder, manifest=manifest), {})
    ours.load()
    (actual,) = images_of(ours, prompt="red", steps=1, seed=0)
    (expected,) = images_of(StableDiffusion(model_folder, {}), prompt="red", steps=1, seed=0)
    np.testing.assert_array_equal(actual.pixels, expected.pixels)


def test_a_model_without_a_denoiser_says_so(model_folder):
    networks = {name: packages for name, packages in model_folder.manifest.networks.items() if name != "unet"}
    folder = replace(model_folder, manifest=replace(model_folder.manifest, networks=networks))
    with pytest.raises(ManifestError, match="tiny has no unet; convert the model again"):
        StableDiffusion(folder, {})


def test_an_image_has_the_size_that_is_asked_for_whatever_size_is_computed(model_folder):
    model = StableDiffusion(model_folder, {})
    computed = bind(model.manifest, prompt="red", width=96, height=64, steps=1, seed=1)
    larger = computed.model_copy(update={"size": Size(width=192, height=128)})
    (plain,) = (e for e in model.generate(computed, {}) if isinstance(e, GeneratedImage))
    (resized,) = (e for e in model.generate(larger, {}) if isinstance(e, GeneratedImage))
    assert resized.pixels.shape == (128, 192, 3)
    back = Image.fromarray(resized.pixels).resize((96, 64), Image.Resampling.BOX)
    assert np.abs(np.asarray(back).astype(int) - plain.pixels).mean() < 10


def test_an_attachment_that_somebody_deleted_is_named(model_folder):
    model = StableDiffusion(model_folder, {})
    request = bind(model.manifest, prompt="red", image="image")
    with pytest.raises(ImageError, match="image is missing"):
        next(model.generate(request, {}))


def test_a_latent_consistency_model_takes_its_guidance_as_an_input(tmp_path):
    source = write_checkpoint(tmp_path / "source", unet=tiny_unet(time_cond_proj_dim=16))
    folder = convert(source, tmp_path / "out", ConvertOptions())
    assert (folder.manifest.defaults.steps, folder.manifest.defaults.scheduler) == (4, "lcm")
    theirs = diffusers_pipeline(source)
    theirs.scheduler = LCMScheduler.from_config(theirs.scheduler.config)
    for scale in (8.0, 1.5):
        (actual,) = images_of(StableDiffusion(folder, {}), prompt="red", guidance_scale=scale, seed=2)
        generator = torch.Generator("cpu").manual_seed(2)
        expected = theirs(
            "red", num_inference_steps=4, guidance_scale=scale, generator=generator, output_type="np"
        ).images[0]
        assert psnr(actual.pixels, expected * 255) > 40


def test_an_inpainting_model_makes_a_whole_image_without_a_source(tmp_path):
    source = write_checkpoint(tmp_path / "source", unet=tiny_unet(in_channels=9))
    folder = convert(source, tmp_path / "out", ConvertOptions())
    (actual,) = images_of(StableDiffusion(folder, {}), prompt="red", steps=3, seed=2, guidance_scale=5)
    parts = diffusers_pipeline(source).components
    theirs = StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = EulerDiscreteScheduler.from_config(theirs.scheduler.config)
    # diffusers draws the masked image's latents after the noise; their mean is what ours takes, so it is given.
    nothing = torch.zeros(1, 3, 64, 64)
    mean = theirs.vae.encode(nothing).latent_dist.mean
    expected = theirs(
        "red",
        image=nothing,
        mask_image=torch.ones(1, 1, 64, 64),
        masked_image_latents=mean * theirs.vae.config.scaling_factor,
        num_inference_steps=3,
        guidance_scale=5,
        generator=torch.Generator("cpu").manual_seed(2),
        output_type="np",
        strength=1.0,
    ).images[0]
    assert psnr(actual.pixels, expected * 255) > 40
