"""Hires fix: windows are blended without loss, and what cannot be combined is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from server.pipeline.boxes.windows import Windows
from server.pipeline.cost import cost
from server.pipeline.request import RequestError
from server.pipeline.tasks.hires import enlarged_latents
from tests.support.fake_pipeline import MANIFEST
from tests.support.generation_requests import request


@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (33, 70)])
def test_windows_of_a_plane_make_the_plane_again(shape):
    plane = np.random.default_rng(0).standard_normal((1, 4, *shape)).astype(np.float32)
    blended = Windows(shape, (32, 32)).blend(lambda place: plane[:, :, place[0], place[1]])
    np.testing.assert_allclose(blended, plane, atol=1e-5)


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
    assert cost(hires, MANIFEST).calls == cost(plain, MANIFEST).calls + 4
    assert (hires.result.width, hires.result.height) == (2 * plain.size.width, 2 * plain.size.height)


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
