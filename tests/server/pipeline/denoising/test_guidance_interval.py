"""The guidance interval: the images are those of a loop of diffusers' own parts, and steps outside it compute one row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

from converter.conversion.convert import convert
from converter.options import ConvertOptions
from converter.runtime import load, weight_bytes
from converter.sources.source import open_source
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.request import RequestError, bind
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.checkpoints import diffusers_pipeline
from tests.support.comparison import psnr

STEPS, SCALE, SEED = 6, 5.0, 11
#: Sigmas of six steps: 14.6, 5.1, 2.3, 1.2, 0.6, 0.03.
INTERVALS = {
    "everywhere": (None, None),
    "from the second step": (6.0, None),
    "to the fourth step": (None, 1.0),
    "in the middle": (4.0, 1.0),
    "nowhere": (0.01, 0.001),
}


class Recorded:
    """A network that notes the rows of its calls."""

    def __init__(self, path, function, rows):
        self._network, self._rows = load(path, function=function), rows
        self.inputs, self.outputs = self._network.inputs, self._network.outputs

    def predict(self, given):
        if "sample" in given:
            self._rows.append(len(given["sample"]))
        return self._network.predict(given)


@pytest.fixture(scope="module")
def folders(checkpoint, model_folder, tmp_path_factory):
    """The tiny model with a UNet of two rows, and with one of one row beside it."""
    out = tmp_path_factory.mktemp("batches") / "both"
    return {(2,): model_folder, (1, 2): convert(open_source(str(checkpoint)), out, ConvertOptions(batches=(2, 1)))}


@pytest.fixture(scope="module")
def theirs(checkpoint):
    pipeline = diffusers_pipeline(checkpoint)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    return pipeline


def expected(pipeline, first, last):
    """The image in [0, 255], and which steps were guided, by a loop over diffusers' UNet, scheduler and autoencoder."""
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(STEPS)
    positive, negative = pipeline.encode_prompt("red", "cpu", 1, True, "blue")
    latents = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(SEED)) * scheduler.init_noise_sigma
    guided = []
    with torch.no_grad():
        for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            noisy = scheduler.scale_model_input(latents, timestep)
            prediction = pipeline.unet(noisy, timestep, positive).sample
            guided.append((first is None or sigma <= first) and (last is None or sigma >= last))
            if guided[-1]:
                without = pipeline.unet(noisy, timestep, negative).sample
                prediction = without + SCALE * (prediction - without)
            latents = scheduler.step(prediction, timestep, latents).prev_sample
        image = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    return ((image[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255).numpy(), guided


def generated(folder, first, last, rows, budget=None):
    model = StableDiffusion(folder, {}, lambda path, function, units: Recorded(path, function, rows), budget)
    request = bind(
        folder.manifest,
        prompt="red",
        negative_prompt="blue",
        steps=STEPS,
        guidance_scale=SCALE,
        seed=SEED,
        scheduler="euler",
        guidance_first_sigma=first,
        guidance_last_sigma=last,
    )
    (image,) = [event for event in model.generate(request, {}) if isinstance(event, GeneratedImage)]
    return image.pixels


@pytest.mark.slow
@pytest.mark.parametrize("name", INTERVALS)
@pytest.mark.parametrize("batches", [(2,), (1, 2)])
def test_an_image_is_that_of_diffusers_parts_with_this_interval(folders, theirs, batches, name):
    first, last = INTERVALS[name]
    wanted, guided = expected(theirs, first, last)
    rows = []
    assert psnr(generated(folders[batches], first, last, rows), wanted) > 40
    assert rows == [2 if is_guided or batches == (2,) else 1 for is_guided in guided]


@pytest.mark.slow
def test_each_interval_guides_other_steps(theirs):
    assert [sum(expected(theirs, *interval)[1]) for interval in INTERVALS.values()] == [6, 5, 4, 2, 0]


@pytest.mark.slow
def test_with_room_for_one_unet_its_rows_stay_in_pairs_and_nothing_is_loaded_again(folders):
    folder = folders[(1, 2)]
    sizes = [weight_bytes(folder.path / package.path) for package in folder.manifest.networks["unet"]]
    rows = []
    tight = generated(folder, 4.0, 1.0, rows, budget=2 * sizes[0] - 1)
    assert rows == [2] * STEPS
    np.testing.assert_allclose(tight.astype(int), generated(folder, 4.0, 1.0, []).astype(int), atol=1)


@pytest.mark.parametrize(
    ("fields", "field", "accepted"),
    [
        (
            {"guidance_first_sigma": 1.0, "guidance_last_sigma": 2.0},
            "guidance_last_sigma",
            "at most guidance_first_sigma",
        ),
        ({"guidance_first_sigma": -1.0}, "guidance_first_sigma", "0 to 10000"),
        ({"guidance_last_sigma": float("nan")}, "guidance_last_sigma", "0 to 10000"),
    ],
)
def test_a_wrong_interval_is_refused_by_name(model_folder, fields, field, accepted):
    with pytest.raises(RequestError, match=accepted) as refused:
        bind(model_folder.manifest, prompt="red", **fields)
    assert refused.value.field == field
