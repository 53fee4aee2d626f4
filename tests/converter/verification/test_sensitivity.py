"""Sensitivity of layers, and the bits that follow from it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from converter.errors import CheckpointError
from converter.networks.features import random_inputs
from converter.runtime.program import declared_features
from converter.sources.checkpoint import Checkpoint
from converter.verification.sensitivity import Layer, Sensitivity, allocate
from converter.weights.blob import unpack
from converter.weights.encodings import PALETTE_BITS
from converter.weights.palettes import palettize

GUIDANCE = 5.0
LAYER = "down_blocks.0.resnets.0.conv1"
BLOCK = "mid_block.attentions.0.transformer_blocks.0"


@pytest.fixture(scope="module")
def measured(checkpoint, model_folder):
    source = Checkpoint.open(checkpoint)
    config, features = source.config("unet"), declared_features(model_folder.package("unet", 64, 64))
    inputs = [random_inputs(features[0], config, seed) for seed in (0, 1)]
    return inputs, Sensitivity(config, source.tensors("unet"), *features, inputs, GUIDANCE)


def rows(module, inputs):
    """The predictions for a negative prompt and for a prompt."""
    given = {name: torch.from_numpy(array.astype(np.float32)) for name, array in inputs.items()}
    with torch.no_grad():
        states = given["encoder_hidden_states"][:, :, 0].transpose(1, 2)
        return module(given["sample"], given["timestep"], states).sample


def guided(predictions):
    negative, positive = predictions
    return negative + GUIDANCE * (positive - negative)


LAYERS = [
    LAYER,
    "mid_block.attentions.0.proj_in",
    f"{BLOCK}.attn1.to_q",
    f"{BLOCK}.attn2.to_v",
    "time_embedding.linear_1",
]


def test_gains_are_those_of_random_errors_in_diffusers_unet(checkpoint, measured):
    inputs, sensitivity = measured
    module = UNet2DConditionModel.from_pretrained(checkpoint / "unet", dtype=torch.float32).eval()
    exact = guided(rows(module, inputs[0]))
    found = [sensitivity.gains(LAYERS, inputs[0], seed) for seed in range(40)]
    for path in LAYERS:
        weight = module.get_parameter(f"{path}.weight")
        original, gains = weight.data.clone(), []
        for seed in range(40):
            error = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * 1e-4
            weight.data = original + error
            change = (guided(rows(module, inputs[0])) - exact).square().mean() / exact.abs().max() ** 2
            gains.append(float(change / error.square().sum()))
        weight.data = original
        # Both are means of 40 samples: five of their standard errors.
        ours = [each[path] for each in found]
        spread = math.hypot(np.std(gains), np.std(ours)) / math.sqrt(40)
        assert np.mean(ours) == pytest.approx(np.mean(gains), abs=5 * spread), path
        assert spread < np.mean(gains) / 4


def test_gains_of_all_layers_need_the_memory_of_none(measured):
    inputs, sensitivity = measured
    sensitivity.gains([LAYER], inputs[0], 0)
    assert sensitivity._network.layer(LAYER).weight.is_meta
    assert "forward" not in vars(sensitivity._network.layer(LAYER))


def test_errors_are_those_of_a_layers_palettes(checkpoint, measured):
    _, sensitivity = measured
    array = Checkpoint.open(checkpoint).tensors("unet").array(f"{LAYER}.weight").astype(np.float16)
    errors = sensitivity.errors(LAYER)
    for bits in PALETTE_BITS:
        packed, palette = palettize(array, bits, undamped=True)
        decoded = palette[unpack(packed, bits, False, array.shape)].astype(np.float64)
        assert errors[bits] == pytest.approx(float(np.square(decoded - array).sum()), rel=1e-5)
    assert all(errors[a] > errors[b] for a, b in itertools.pairwise(PALETTE_BITS))


def test_more_bits_bring_the_prediction_nearer(measured):
    _, sensitivity = measured
    least, more = (sensitivity.nearness({LAYER: bits}).guided_db for bits in (2, 6))
    assert 5 < least < more - 10
    assert sensitivity.nearness({}).guided_db > 150


@pytest.mark.parametrize("undamped", [True, False])
def test_nearness_is_that_of_diffusers_unet_with_the_palettes_values(checkpoint, measured, undamped):
    inputs, sensitivity = measured
    module = UNet2DConditionModel.from_pretrained(checkpoint / "unet", dtype=torch.float32).eval()
    exact = [rows(module, each) for each in inputs]
    weight = module.get_parameter(f"{LAYER}.weight")
    packed, palette = palettize(weight.detach().numpy().astype(np.float16), 3, undamped=undamped)
    weight.data = torch.from_numpy(palette[unpack(packed, 3, False, tuple(weight.shape))].astype(np.float32))
    near = [rows(module, each) for each in inputs]

    def mean_db(a, b):
        pairs = zip(a, b, strict=True)
        return np.mean([float(10 * torch.log10(y.abs().max() ** 2 / (x - y).square().mean())) for x, y in pairs])

    found = sensitivity.nearness({LAYER: 3}, undamped=undamped)
    assert found.prediction_db == pytest.approx(mean_db(near, exact), abs=0.002)
    assert found.guided_db == pytest.approx(mean_db(map(guided, near), map(guided, exact)), abs=0.001)
    assert found.guided_db != pytest.approx(found.prediction_db, abs=0.1)


def layers(*sensitivities, size=1000):
    """Return layers whose errors fall by 6 dB a bit, as a normal distribution's nearly do."""
    errors = {bits: 4.0**-bits for bits in PALETTE_BITS}
    return {f"layer {n}": Layer(size * (n + 1), errors, (s,)) for n, s in enumerate(sensitivities)}


def total(chosen, bits):
    return sum(layer.cost(bits[path]) for path, layer in chosen.items())


def average(chosen, bits):
    return sum(layer.size * bits[path] for path, layer in chosen.items()) / sum(layer.size for layer in chosen.values())


@pytest.mark.parametrize("wanted", [1.0, 2.5, 4.0, 5.5, 8.0])
def test_no_other_choice_costs_much_less_than_the_allocated_one(wanted):
    chosen = layers(1.0, 100.0, 1e4, 3.0)
    bits = allocate(chosen, wanted)
    assert average(chosen, bits) <= wanted
    widths = (*(bits for bits in PALETTE_BITS if bits > wanted - 2), 16)
    choices = (dict(zip(chosen, each, strict=True)) for each in itertools.product(widths, repeat=len(chosen)))
    least = min(total(chosen, each) for each in choices if average(chosen, each) <= wanted)
    # Exchanges are whole: with four layers the last one may not fit, with hundreds its part is small.
    assert total(chosen, bits) <= 5 * least
    assert math.isfinite(total(chosen, bits))


def test_sensitive_layers_get_more_bits_and_enough_room_means_fp16():
    chosen = layers(1.0, 1.0, 1e6, size=10)
    bits = allocate(chosen, 4.5)
    assert bits["layer 2"] > bits["layer 1"] >= bits["layer 0"] - 1
    assert set(allocate(chosen, 16).values()) == {16}


def test_a_width_without_error_is_enough_for_a_layer_of_few_values():
    errors = {1: 9.0, 2: 2.0, 3: 0.0, 4: 0.0, 6: 0.0, 8: 0.0}
    layer = Layer(1000, errors, (0.5,))
    assert [layer.cost(bits) for bits in (1, 2, 3, 16)] == [4.5, 1.0, 0.0, 0.0]
    assert allocate({"layer": layer}, 4.0) == {"layer": 3}


def test_no_layer_gets_less_than_a_bit_below_the_average():
    chosen = layers(1.0, 1.0, 1.0, 1e-12)
    assert [min(allocate(chosen, wanted).values()) for wanted in (1.5, 3.0, 4.5, 8.0)] == [1, 2, 3, 6]


def test_only_widths_that_a_target_has_are_chosen():
    chosen = layers(1.0, 3.0, 10.0, 30.0, 1e-3)
    assert 3 in allocate(chosen, 4.5).values()
    assert set(allocate(chosen, 4.5, (1, 2, 4, 6, 8)).values()) <= {4, 6, 8}


def test_where_there_are_no_3_bits_2_are_given_up_to_an_average_of_4_and_a_half():
    chosen = layers(1.0, 1.0, 1.0, 1e-12)
    assert [min(allocate(chosen, wanted, (1, 2, 4, 6, 8)).values()) for wanted in (3.0, 4.25, 4.5, 5.0)] == [2, 2, 4, 4]


def test_a_gain_is_a_mean_in_decibels_which_no_single_input_decides():
    errors = dict.fromkeys(PALETTE_BITS, 1.0)
    assert Layer(10, errors, (1.0, 4.0, 1e4)).gain == pytest.approx(4e4 ** (1 / 3))
    assert Layer(10, errors, (1.0, 0.0)).gain == pytest.approx(1e-3)
    assert Layer(10, errors, (0.0, 0.0)).gain == 0
    assert Layer(10, errors, (1e-4, 1e-6)).decibels(4) == pytest.approx([40, 60], abs=1e-3)


def test_a_unet_that_predicts_zeros_is_refused(checkpoint, model_folder, monkeypatch):
    source = Checkpoint.open(checkpoint)
    features = declared_features(model_folder.package("unet", 64, 64))
    monkeypatch.setattr(Sensitivity, "_predictions", lambda self: [np.zeros((1, 4, 8, 8), np.float32)])
    with pytest.raises(CheckpointError, match="nothing but zeros"):
        Sensitivity(source.config("unet"), source.tensors("unet"), *features, [])
