"""What a request costs, compared with the calls that a pipeline makes for it."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from converter.manifest import Package
from converter.runtime import load
from server.pipeline.cost import Cost, cost
from server.pipeline.denoising.denoiser import Step
from server.pipeline.request import bind
from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.fake_pipeline import MANIFEST


class Counted:
    """A network whose calls are counted; a denoiser predicts nothing."""

    def __init__(self, path, function, calls):
        self._network, self._calls = load(path, function=function), calls
        self.inputs, self.outputs = self._network.inputs, self._network.outputs

    def predict(self, given):
        if "sample" in given:
            self._calls["unet"] += 1
            return {"noise_pred": np.zeros(given["sample"].shape, np.float32)}
        if "z" in given:
            self._calls["decoder"] += 1
        return self._network.predict(given)


@pytest.fixture(scope="module")
def counted(model_folder):
    calls = Counter()
    return StableDiffusion(model_folder, {}, lambda path, function, units: Counted(path, function, calls)), calls


def image():
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("fields", [{}, {"strength": 0.2}, {"strength": 0.5}, {"strength": 0.75}, {"strength": 1.0}])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_a_request_costs_the_calls_the_pipeline_makes(counted, name, fields, guidance_scale):
    model, calls = counted
    calls.clear()
    given = {"image": "image", **fields} if fields else {}
    request = bind(model.manifest, prompt="red", steps=5, scheduler=name, guidance_scale=guidance_scale, **given)
    steps = [event for event in model.generate(request, {"image": image()}) if isinstance(event, Step)]
    actual = cost(request, model.manifest)
    assert actual.calls == calls["unet"] == len(steps) == steps[-1].total
    assert actual.decodes == calls["decoder"] == 1
    assert actual.rows == (2 if guidance_scale > 1 else 1)


@pytest.mark.parametrize(
    "fields",
    [{}, {"hires_steps": 3}, {"hires_scale": 1.5, "hires_upscaler": "latent"}, {"scheduler": "heun"}, {"n": 2}],
)
def test_the_second_pass_costs_a_call_for_each_window(counted, fields):
    model, calls = counted
    calls.clear()
    request = bind(model.manifest, **{"prompt": "red", "steps": 2, "hires_scale": 2, "hires_strength": 0.5} | fields)
    list(model.generate(request, {}))
    assert cost(request, model.manifest).calls == calls["unet"]


@pytest.mark.parametrize(("name", "calls"), [("euler", 10), ("heun", 19), ("pndm", 11), ("lcm", 10)])
def test_some_schedulers_call_the_network_more_often_than_they_take_steps(name, calls):
    request = bind(MANIFEST, prompt="red", steps=10, scheduler=name, n=3)
    assert cost(request, MANIFEST) == Cost(3 * calls, 2, 3)


@pytest.mark.parametrize(
    ("batches", "calls"),
    [((2,), 10), ((1, 2), 8), ((1,), 8)],
    ids=["rows in pairs only", "both packages", "rows one by one"],
)
def test_a_call_outside_the_guidance_interval_costs_what_its_rows_do(batches, calls):
    packages = tuple(Package(f"unet{batch}", 64, 64, batch, 77) for batch in batches)
    manifest = replace(MANIFEST, networks={"unet": packages})
    request = bind(manifest, prompt="red", steps=10, scheduler="euler", guidance_scale=4, guidance_last_sigma=1.0)
    schedule = NoiseSchedule.of(manifest)
    guided = sum(schedule.sigma_at(float(t)) >= 1.0 for t in SCHEDULERS["euler"].make(schedule, 10).timesteps)
    assert guided == 6
    assert cost(request, manifest) == Cost(calls, 2, 1)
    assert cost(bind(manifest, prompt="red", steps=10, scheduler="euler", guidance_scale=4), manifest).calls == 10


def test_a_model_that_takes_the_guidance_scale_as_an_input_needs_one_row():
    distilled = replace(MANIFEST, conditions=replace(MANIFEST.conditions, guidance_width=256))
    assert cost(bind(distilled, prompt="red", guidance_scale=8.0), distilled).rows == 1


def test_prompts_joined_by_and_are_rows():
    def rows(**fields):
        return cost(bind(MANIFEST, **fields), MANIFEST).rows

    assert rows(prompt="a") == 2
    assert rows(prompt="a AND b AND c") == 4
    assert rows(prompt="a AND b AND c", guidance_scale=1) == 3
    assert rows(prompt="a AND b AND c", prompt_syntax="plain") == 2
    assert rows(prompt="a", negative_prompt="b AND c") == 2
