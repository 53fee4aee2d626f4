"""What a client asks for in vain is said in a note; what has an effect, or is left at its default, is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from diffusers import EulerDiscreteScheduler

from converter.manifest import Conditions, Package
from server.pipeline.request import bind
from tests.support.fake_pipeline import MANIFEST

STEPS = {"prompt": "a circle", "steps": 10, "scheduler": "euler"}
WITH_CONTROLS = replace(
    MANIFEST,
    networks=MANIFEST.networks
    | {
        "unet": (Package("unet.mlpackage", 64, 64, 2, control=True),),
        "controlnet/canny": (Package("controlnet.mlpackage", 64, 64, 2),),
    },
)
CONSISTENCY = replace(MANIFEST, conditions=Conditions(False, 256, None, False))
BASE = replace(MANIFEST, family="sdxl")


def notes(manifest=MANIFEST, **fields):
    return bind(manifest, **STEPS | fields).notes


def test_a_request_that_does_what_it_says_has_no_notes():
    assert notes() == ()
    assert (
        notes(negative_prompt="a square", guidance_rescale=0.5, guidance_first_sigma=10, guidance_last_sigma=0.1) == ()
    )
    assert notes(variation_seed=3, variation_strength=0.1) == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("negative_prompt", "a square"),
        ("guidance_rescale", 0.5),
        ("guidance_first_sigma", 5.0),
        ("guidance_last_sigma", 5.0),
    ],
)
def test_what_belongs_to_guidance_is_in_vain_without_it(field, value):
    assert notes(guidance_scale=5, **{field: value}) == ()
    for scale in (1, 0.5):
        assert notes(guidance_scale=scale, **{field: value}) == (
            f"{field} has no effect at a guidance_scale of 1 and below",
        )
    assert notes(CONSISTENCY, guidance_scale=5, **{field: value}) == (
        f"{field} has no effect with this model, which reads guidance_scale as an input",
    )
    # The refiner has guidance.
    assert notes(replace(CONSISTENCY, family="sdxl"), guidance_scale=5, refiner="refiner", **{field: value}) == ()


@pytest.mark.parametrize("interval", [{"guidance_first_sigma": 0.01}, {"guidance_last_sigma": 100.0}])
def test_an_interval_in_which_no_step_lies_is_said(interval):
    (note,) = notes(guidance_scale=5, negative_prompt="a square", **interval)
    scheduler = EulerDiscreteScheduler(
        1000, 0.00085, 0.012, "scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    scheduler.set_timesteps(10)
    first, *_, last, _ = scheduler.sigmas.tolist()
    assert note == (
        "no step is guided: none lies between guidance_first_sigma and guidance_last_sigma; the steps' noise levels go from "
        f"{first:.4g} to {last:.4g}"
    )


def test_the_seed_of_a_variation_that_is_not_asked_for_is_in_vain():
    (note,) = notes(variation_seed=3)
    assert note.startswith("variation_seed has no effect")
    # A1111's clients send these.
    assert notes(variation_seed=-1, variation_strength=0) == ()


def test_an_image_that_counts_nothing_is_said():
    assert notes(palette_image="p", palette_strength=0.1) == ()
    assert notes(palette_image="p", palette_strength=0) == ("palette_image has no effect at a palette_strength of 0",)
    adapted = replace(MANIFEST, networks=MANIFEST.networks | {"ip_adapter/plus": (Package("p.mlpackage", 1, 1, 1),)})
    assert notes(adapted, adapter_image="a") == ()
    assert notes(adapted, adapter_image="a", adapter_scale=0) == (
        "adapter_image has no effect at an adapter_scale of 0",
    )


@pytest.mark.parametrize(
    ("control", "why"),
    [
        ({"weight": 0}, "its weight is 0"),
        ({"start": 0.42, "end": 0.48}, "none of 10 steps lies between its start and end"),
        ({"start": 0.4, "end": 0.5}, None),
    ],
)
def test_a_control_that_is_never_called_is_said(control, why):
    controls = [{"image": "control_0_image"}, {"image": "control_1_image", **control}]
    expected = () if why is None else (f"controls.1 has no effect: {why}",)
    assert notes(WITH_CONTROLS, controls=controls) == expected


@pytest.mark.parametrize(("switch", "in_vain"), [(1.0, True), (0.9, False), (0.0, False)])
def test_a_refiner_that_takes_over_no_step_is_said(switch, in_vain):
    told = notes(BASE, refiner="refiner", refiner_switch=switch)
    assert [note.startswith("the refiner has no effect") for note in told] == [True] * in_vain
