"""Which steps a ControlNet is called for, how residuals add up, and which controls a request may have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from converter.manifest import Package
from converter.runtime import Feature
from server.pipeline.cost import Cost, cost
from server.pipeline.denoising.controls import AppliedControl, Controls
from server.pipeline.denoising.denoiser import Moment
from server.pipeline.images import to_unit
from server.pipeline.infotext import read_infotext, write_infotext
from server.pipeline.request import ImageSeeds, RequestError, bind
from tests.support.fake_pipeline import MANIFEST

UNET = Package("unet.mlpackage", 64, 64, 2, 77)
MODEL = replace(
    MANIFEST,
    networks={
        "unet": (UNET, replace(UNET, path="control-unet.mlpackage", control=True)),
        "controlnet/canny": (replace(UNET, path="canny.mlpackage"),),
        "controlnet/tile": (replace(UNET, path="tile.mlpackage"),),
    },
)
NOISY = np.zeros((1, 4, 8, 8), np.float16)


class FakeNetwork:
    """A network that computes ``outputs`` of its inputs, and counts its calls."""

    def __init__(self, shapes, outputs):
        self.inputs = {name: Feature(name, shape, np.dtype(np.float16)) for name, shape in shapes.items()}
        self._outputs, self.calls = outputs, 0

    def predict(self, inputs):
        self.calls += 1
        assert {name: array.shape for name, array in inputs.items() if name in self.inputs} == {
            name: feature.shape for name, feature in self.inputs.items()
        }
        return self._outputs(inputs)


def bound(*controls, model=MODEL, **fields):
    return bind(model, prompt="red", **fields, controls=[{"image": "map", **control} for control in controls]).controls


def refused(*controls, model=MODEL):
    with pytest.raises(RequestError) as caught:
        bound(*controls, model=model)
    return caught.value.field, caught.value.value, caught.value.accepted


def control(rows=2, value=1.0, **settings):
    shapes = {"sample": (rows, 4, 8, 8), "controlnet_cond": (rows, 3, 64, 64), "encoder_hidden_states": (rows, 3)}
    network = FakeNetwork(
        shapes, lambda inputs: {"additional_residual_0": value * inputs["encoder_hidden_states"].astype(np.float32)}
    )
    span = {"weight": 1.0, "start": 0.0, "end": 1.0} | settings
    return AppliedControl(lambda n: network, np.zeros((1, 3, 64, 64), np.float16), **span), network


def rows(*values):
    return [{"encoder_hidden_states": np.full((1, 3), value, np.float16)} for value in values]


def called(control, calls, first=0):
    return [i for i in range(first, calls) if control.applies(Moment(i, calls, 1.0, 1.0, first))]


UNET_NETWORK = FakeNetwork({"sample": (2, 4, 8, 8), "additional_residual_0": (2, 3)}, dict)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 1, range(10)), (0, 0.5, range(5)), (0.5, 1, range(5, 10)), (0.25, 0.75, range(3, 7)), (0.99, 1, ())],
)
def test_a_controlnet_is_called_between_its_shares_of_the_steps(start, end, expected):
    assert called(control(start=start, end=end)[0], 10) == list(expected)


def test_the_shares_are_of_the_steps_that_an_image_from_an_image_takes():
    assert called(control(end=0.5)[0], 10, first=6) == [6, 7]


def test_residuals_of_several_controlnets_add_up_each_times_its_weight():
    first, second = control(weight=0.5)[0], control(value=10.0, weight=2.0)[0]
    (negative, positive) = Controls((first, second)).rows(UNET_NETWORK, NOISY, Moment(0, 4, 1.0, 1.0), rows(1, 3))
    assert negative["additional_residual_0"].tolist() == [[20.5] * 3]
    assert positive["additional_residual_0"].tolist() == [[61.5] * 3]
    assert positive["additional_residual_0"].dtype == np.float16


def test_a_controlnet_of_one_row_is_called_for_each():
    applied, network = control(rows=1)
    made = Controls((applied,)).rows(UNET_NETWORK, NOISY, Moment(0, 4, 1.0, 1.0), rows(1, 3, 5))
    assert [row["additional_residual_0"][0, 0] for row in made] == [1, 3, 5]
    assert network.calls == 3


def test_residuals_are_zero_where_no_controlnet_is_called_and_none_runs():
    applied, network = control(end=0.5)
    made = Controls((applied,)).rows(UNET_NETWORK, NOISY, Moment(3, 4, 1.0, 1.0), rows(1, 3))
    assert [row["additional_residual_0"].tolist() for row in made] == [[[0] * 3]] * 2
    assert network.calls == 0


def test_a_map_becomes_channels_from_0_to_1():
    pixels = np.zeros((64, 48, 3), np.uint8)
    pixels[3, 5] = (255, 0, 51)
    made = to_unit(pixels)
    assert made.shape == (1, 3, 64, 48)
    assert made[0, :, 3, 5].tolist() == [1.0, 0.0, pytest.approx(0.2, abs=1e-3)]


def test_a_control_takes_its_defaults_and_the_first_controlnet():
    (made,) = bound({})
    assert (made.weight, made.start, made.end, made.preprocessor) == (1.0, 0.0, 1.0, "none")
    assert made.network(MODEL) == "controlnet/canny"


def test_two_maps_for_one_net_are_accepted():
    assert [c.network(MODEL) for c in bound({"net": "tile"}, {"net": "tile"})] == ["controlnet/tile"] * 2


@pytest.mark.parametrize(
    "networks",
    [{}, {"unet": (UNET,), "controlnet/canny": (UNET,)}],
    ids=["no networks", "a UNet that takes no residuals"],
)
def test_a_control_of_a_model_without_controlnets_is_told_which_conversion_brings_one(networks):
    field, _, accepted = refused({}, model=replace(MODEL, networks=networks))
    assert field == "controls.0.net"
    assert "--controlnet" in accepted


def test_an_unknown_net_is_told_those_that_there_are():
    assert refused({}, {"net": "depth"}) == ("controls.1.net", "depth", "canny, tile")


@pytest.mark.parametrize(
    ("control", "field"),
    [
        ({"start": 0.5, "end": 0.5}, "controls.0.start"),
        ({"weight": 2.5}, "controls.0.weight"),
        ({"preprocessor": "canni"}, "controls.0.preprocessor"),
        ({"preprocessor": "depth"}, "controls.0.preprocessor"),
        ({"low_threshold": 10}, "controls.0.low_threshold"),
        ({"preprocessor": "blur", "high_threshold": 10}, "controls.0.high_threshold"),
        ({"preprocessor": "canny", "low_threshold": 210}, "controls.0.low_threshold"),
        ({"preprocessor": "canny", "low_threshold": 1, "high_threshold": 256}, "controls.0.high_threshold"),
    ],
)
def test_a_wrong_control_is_refused_by_the_name_of_its_field(control, field):
    assert refused(control)[0] == field


def test_canny_s_thresholds_are_those_sent_or_the_usual_ones():
    assert bound({"preprocessor": "canny"})[0].thresholds == (100, 200)
    assert bound({"preprocessor": "canny", "low_threshold": 50})[0].thresholds == (50, 200)
    assert bound({"preprocessor": "blur"})[0].thresholds == ()


@pytest.mark.parametrize(
    ("controls", "rows"),
    [((), 2), (({},), 4), (({"end": 0.5},), 3), (({}, {"net": "tile"}), 6), (({"weight": 0},), 2)],
)
def test_the_rows_that_controlnets_compute_are_part_of_the_cost(controls, rows):
    request = bind(MODEL, prompt="red", steps=10, controls=[{"image": "map", **each} for each in controls])
    assert cost(request, MODEL) == Cost(10, rows, 1)


def test_the_infotext_has_a_unit_of_a1111_s_extension_for_each_control():
    asked = [{"image": "a", "preprocessor": "canny", "weight": 0.5, "end": 0.8}, {"image": "b", "net": "tile"}]
    request = bind(MODEL, prompt="red", controls=asked)
    settings = read_infotext(write_infotext(request, MODEL, ImageSeeds(1, None))).settings
    assert settings["ControlNet 0"] == (
        "Module: canny, Model: canny, Weight: 0.5, Resize Mode: Crop and Resize, Threshold A: 100, Threshold B: 200, "
        "Guidance Start: 0, Guidance End: 0.8, Control Mode: Balanced"
    )
    assert settings["ControlNet 1"].startswith("Module: none, Model: tile, Weight: 1, ")
