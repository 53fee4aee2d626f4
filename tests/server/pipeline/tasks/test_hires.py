"""Hires fix: windows are blended without loss, and what cannot be combined is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
import torch

from server.pipeline.boxes.windows import Windows
from server.pipeline.cost import cost
from server.pipeline.denoising.denoiser import GeneratedImage, Step
from server.pipeline.networks import Call
from server.pipeline.request import RequestError, bind
from server.pipeline.stable_diffusion import StableDiffusion
from server.pipeline.tasks.hires import enlarged_latents
from tests.support.fake_pipeline import MANIFEST
from tests.support.generation_requests import request
from tests.support.predictors import returned


@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (33, 70)])
def test_windows_of_a_plane_make_the_plane_again(shape):
    plane = np.random.default_rng(0).standard_normal((1, 4, *shape)).astype(np.float32)

    def cut(place):
        yield Call(0.0)
        return plane[:, :, place[0], place[1]]

    np.testing.assert_allclose(returned(Windows(shape, (32, 32)).blend(cut)), plane, atol=1e-5)


def test_windows_overlap_by_a_quarter_at_least():
    starts = sorted({place[1].start for place in Windows((32, 64), (32, 32)).places})
    assert starts == [0, 16, 32]
    with pytest.raises(ValueError, match="do not fit"):
        Windows((16, 64), (32, 32))


def test_latents_are_enlarged_as_pytorch_does():
    latents = np.random.default_rng(1).standard_normal((1, 4, 8, 10)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(latents), size=(12, 20), mode="bilinear")
    np.testing.assert_allclose(enlarged_latents(latents, 12, 20), expected.numpy(), atol=1e-5)


def test_the_second_pass_makes_the_steps_that_are_asked_for():
    plain, hires = request(steps=10), request(steps=10, hires_scale=2, hires_steps=4, hires_strength=0.5)
    assert hires.hires.scheduled(10) == (8, 4)
    # In three by three windows.
    assert cost(hires, MANIFEST).calls == cost(plain, MANIFEST).calls + 4 * 9
    assert (hires.result.width, hires.result.height) == (2 * plain.size.width, 2 * plain.size.height)


@pytest.mark.parametrize(
    ("fields", "strength"),
    [({}, 0.2), ({"hires_upscaler": "latent"}, 0.7), ({"hires_strength": 0.4}, 0.4)],
)
def test_a_pass_in_windows_changes_little_unless_it_begins_with_blurred_latents(fields, strength):
    assert request(hires_scale=2, **fields).hires.hires_strength == strength


def test_a_pass_at_a_converted_size_changes_more():
    manifest = replace(MANIFEST, sizes=(*MANIFEST.sizes, tuple(2 * side for side in MANIFEST.sizes[0])))
    hires = bind(manifest, prompt="a", hires_scale=2).hires
    assert (hires.hires_upscaler, hires.hires_strength) == ("lanczos", 0.3)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"hires_scale": 5}, "hires_scale"),
        ({"hires_steps": 4}, "hires_steps"),
        ({"hires_scale": 2, "hires_strength": 0.001, "steps": 50}, "hires_strength"),
    ],
)
def test_what_cannot_be_done_is_named(fields, field):
    with pytest.raises(RequestError) as caught:
        request(**fields)
    assert caught.value.field == field


def events_of(model_folder, prompt="red", **fields):
    model = StableDiffusion(model_folder, {})
    asked = {"steps": 2, "seed": 7, "hires_scale": 1.5, "hires_strength": 0.5, **fields}
    return list(model.generate(bind(model.manifest, prompt=prompt, **asked), {}))


@pytest.mark.slow
@pytest.mark.parametrize("upscaler", ["latent", "lanczos"])
def test_the_steps_of_both_passes_are_counted_as_one_walk(model_folder, upscaler):
    events = events_of(model_folder, n=2, hires_steps=3, hires_upscaler=upscaler)
    steps = [(e.image, e.index, e.total) for e in events if isinstance(e, Step)]
    assert steps == [(image, index, 5) for image in (0, 1) for index in range(1, 6)]
    assert [e.pixels.shape for e in events if isinstance(e, GeneratedImage)] == [(96, 96, 3)] * 2


@pytest.mark.slow
def test_a_caller_can_stop_after_each_window_of_a_step(model_folder):
    events = events_of(model_folder, hires_scale=2, hires_upscaler="latent")
    calls_before = [
        len(list(calls)) for is_call, calls in groupby(events, lambda event: isinstance(event, Call)) if is_call
    ]
    # Two steps of the first pass, two of the second, the decoder's windows.
    assert calls_before == [1, 1, 9, 9, 9]


@pytest.mark.slow
def test_numbers_of_edits_count_on_in_the_second_pass(model_folder):
    """As in A1111: a share of 1 begins with the second pass, one of 2 is never reached."""
    before, after = (events_of(model_folder, f"[red:blue:{when}]") for when in ("2.0", "1.0"))
    latents = [[e.latents for e in events if isinstance(e, Step)] for events in (before, after)]
    for one, other in zip(latents[0][:2], latents[1][:2], strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(latents[0][3] - latents[1][3]).max() > 1e-3


def test_a_result_may_be_longer_than_a_side_that_is_asked_for_and_one_that_is_too_large_is_refused():
    long = request(width=2048, height=512, hires_scale=4)
    assert (long.result.width, long.result.height) == (8192, 2048)
    for width, height, result in ((4096, 4096, "16384x16384"), (4096, 64, "16384x256"), (64, 4096, "256x16384")):
        with pytest.raises(RequestError, match=f"16383 a side, such as 4096x4096; this is {result}") as caught:
            request(width=width, height=height, hires_scale=4)
        assert caught.value.field == "hires_scale"
