"""SDXL's base model and refiner: which steps are whose, which refiners fit, and images against diffusers' two pipelines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)

from converter.conversion.convert import convert
from converter.options import ConvertOptions
from converter.runtime import weight_bytes
from server.pipeline.denoising.denoiser import GeneratedImage, Moment
from server.pipeline.denoising.refining import Refined, check_refiner, for_refiner, refiners_for
from server.pipeline.networks import load_package
from server.pipeline.request import RequestError, bind
from server.pipeline.request.sampling import Refiner
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.checkpoints import write_xl_checkpoint, xl_parts
from tests.support.comparison import psnr
from tests.support.fake_pipeline import MANIFEST
from tests.support.predictors import Constant, returned

SCHEDULERS = {"euler": EulerDiscreteScheduler, "ddim": DDIMScheduler}
FIELDS = {"prompt": "red", "negative_prompt": "blue", "steps": 10, "guidance_scale": 5, "seed": 5}
BASE = replace(MANIFEST, name="base", family="sdxl")
REFINER = replace(MANIFEST, name="refiner", family="sdxl_refiner")


def test_the_refiner_takes_over_below_the_switch():
    switch = Refiner(refiner="refiner", refiner_switch=0.8).switch_timestep(1000)
    refined = Refined(Constant("base"), Constant("refiner"), switch)
    asked = [returned(refined.predict(None, Moment(0, 5, timestep, 1.0))) for timestep in (999, 201, 200, 199.5, 1)]
    assert asked == ["base", "base", "base", "refiner", "refiner"]


@pytest.mark.parametrize(("share", "timestep"), [(0.0, 1000), (0.8, 200), (1.0, 0)])
def test_the_switch_is_a_share_of_the_training_timesteps(share, timestep):
    assert Refiner(refiner="refiner", refiner_switch=share).switch_timestep(1000) == timestep


def refused(base=BASE, installed=(REFINER,), **fields):
    request = bind(base, **FIELDS, **{"refiner": "refiner", **fields})
    with pytest.raises(RequestError) as caught:
        check_refiner(request, base, {model.name: model for model in installed})
    assert (caught.value.field, caught.value.value) == ("refiner", request.refiner.refiner)
    return caught.value.accepted


def test_a_refiner_that_fits_is_accepted():
    check_refiner(bind(BASE, **FIELDS, refiner="refiner"), BASE, {"refiner": REFINER})
    check_refiner(bind(BASE, **FIELDS), BASE, {})


def test_the_refiners_of_a_model_are_those_that_go_on_where_it_stops():
    installed = {
        "base": BASE,
        "refiner": REFINER,
        "other": replace(REFINER, prediction_type="v_prediction"),
        "larger": replace(REFINER, sizes=((128, 128),)),
    }
    assert refiners_for(BASE, installed) == ["refiner", "larger"]
    assert refiners_for(MANIFEST, installed) == []


def test_a_missing_refiner_is_told_those_that_there_are_or_the_conversion_that_brings_one():
    assert refused(refiner="other") == "refiner"
    assert "stable-diffusion-xl-refiner-1.0" in refused(installed=(BASE,))


@pytest.mark.parametrize(
    ("base", "refiner", "accepted"),
    [
        (replace(BASE, family="sd1"), REFINER, "refiners are for sdxl"),
        (BASE, replace(REFINER, sizes=((128, 128),)), "128x128"),
        (BASE, replace(REFINER, prediction_type="v_prediction"), "prediction_type"),
        (BASE, replace(REFINER, vae_scaling_factor=0.5), "vae_scaling_factor"),
    ],
)
def test_a_refiner_that_cannot_go_on_with_the_model_s_latents_is_refused(base, refiner, accepted):
    assert accepted in refused(base, (refiner,))


def test_the_refiner_reads_the_request_without_control_maps():
    request = bind(BASE, **FIELDS, refiner="refiner")
    assert for_refiner(request).refiner is None
    assert for_refiner(request).prompts == request.prompts


class Loads:
    """Loads packages, and remembers which."""

    def __init__(self):
        self.paths = []

    def __call__(self, path, function, units):
        self.paths.append(path)
        return load_package(path, function, units)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refined")
    sources = [write_xl_checkpoint(folder / name, refiner=name == "refiner") for name in ("base", "refiner")]
    return [(source, convert(source, folder / f"{source.name}-out", ConvertOptions())) for source in sources]


def image_of(folders, loader=load_package, budget=None, **fields):
    (_, base), (_, refiner) = folders
    pipeline = StableDiffusion(base, {}, loader, budget)
    request = bind(base.manifest, **FIELDS, refiner="refiner", **fields)
    events = pipeline.generate(request, {}, StableDiffusion(refiner, {}, loader, beside=pipeline))
    return next(e for e in events if isinstance(e, GeneratedImage)).pixels


def expected_image(folders, scheduler, switch):
    kinds = (StableDiffusionXLPipeline, StableDiffusionXLImg2ImgPipeline)
    pipelines = []
    for (source, made), kind in zip(folders, kinds, strict=True):
        extra = {"requires_aesthetics_score": True} if kind is StableDiffusionXLImg2ImgPipeline else {}
        zeros = made.manifest.conditions.zeros_for_no_prompt
        parts = xl_parts(source) | {"scheduler": SCHEDULERS[scheduler].from_pretrained(source / "scheduler")}
        pipelines.append(kind(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False, **extra))
        pipelines[-1].set_progress_bar_config(disable=True)
    shared = {"negative_prompt": "blue", "num_inference_steps": 10, "guidance_scale": 5}
    latents = pipelines[0](
        "red", denoising_end=switch, output_type="latent", generator=torch.Generator("cpu").manual_seed(5), **shared
    ).images
    return 255 * pipelines[1]("red", image=latents, denoising_start=switch, output_type="np", **shared).images[0]


@pytest.mark.slow
@pytest.mark.parametrize(("scheduler", "switch"), [("euler", 0.3), ("euler", 0.55), ("ddim", 0.4)])
def test_base_and_refiner_make_the_image_that_diffusers_two_pipelines_make(folders, scheduler, switch):
    actual = image_of(folders, scheduler=scheduler, refiner_switch=switch)
    expected = expected_image(folders, scheduler, switch)
    unrefined = image_of(folders, scheduler=scheduler, refiner_switch=1.0)
    assert psnr(actual, expected) > 40
    assert psnr(actual, expected) > psnr(unrefined, expected) + 6


@pytest.mark.slow
def test_both_models_keep_to_one_memory_budget_and_the_base_s_unet_gives_way(folders):
    (_, base), (_, refiner) = folders
    needed = [
        weight_bytes(made.path / package.path)
        for made in (base, refiner)
        for packages in made.manifest.networks.values()
        for package in packages
    ]
    loads = Loads()
    image = image_of(folders, loads, max(needed), scheduler="euler")
    assert np.array_equal(image, image_of(folders, scheduler="euler"))
    units = [path.parent.name for path in loads.paths if "_unet" in path.name]
    assert units == ["base-out", "refiner-out"]
