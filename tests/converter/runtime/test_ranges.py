"""Ranges of operations' results, and overflow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D

from converter.networks.vae import vae_decoder
from converter.runtime.mil import MILNetwork
from converter.runtime.ranges import by_headroom, report
from tests.support.checkpoints import SIDE, tiny_vae
from tests.support.fp16_programs import fp16, mb, package_of_program
from tests.support.mil_packages import halved, package_of

LARGEST = 65504.0


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """x * 8, its square, the mean of the squares, its root: what overflows first is the square."""

    def body(x):
        scaled = mb.mul(x=x, y=np.float16(8), name="scaled")
        moved = mb.reshape(x=scaled, shape=[2, 50], name="moved")
        square = mb.square(x=moved, name="square")
        mean = mb.reduce_mean(x=square, axes=[1], keep_dims=True, name="mean")
        return mb.sqrt(x=mean, name="root")

    return package_of_program(tmp_path_factory.mktemp("squares"), [fp16(1, 100)], body)


def measure(path, x, precision="fp16", **how):
    network = MILNetwork(path, precision=precision, record=True, **how)
    network.predict({"x": x})
    return network.ranges


def test_ranges_are_those_of_the_numbers_before_rounding(squares):
    x = np.random.default_rng(0).uniform(-60, 60, (1, 100)).astype(np.float16)
    ranges = measure(squares, x)
    scaled = (x.astype(np.float32) * 8).astype(np.float16).astype(np.float32)
    over = int((scaled**2 >= 65520).sum())
    assert 0 < over < 100
    assert set(ranges) == {"scaled", "square", "mean", "root"}
    assert ranges["square"].peak == (scaled**2).max()
    assert ranges["square"].headroom_db == pytest.approx(20 * math.log10(LARGEST / (scaled**2).max()))
    assert (ranges["square"].overflowed, ranges["square"].infinite, ranges["square"].count) == (over, over, 100)
    assert ranges["scaled"].peak == np.abs(scaled).max()
    assert ranges["scaled"].overflowed == ranges["scaled"].infinite == ranges["scaled"].undefined == 0


def test_what_is_infinite_because_its_operands_were_did_not_overflow(squares):
    ranges = measure(squares, np.full((1, 100), 60, np.float16))
    assert (ranges["square"].overflowed, ranges["square"].infinite) == (100, 100)
    assert (ranges["mean"].overflowed, ranges["mean"].infinite) == (0, 2)
    assert (ranges["root"].overflowed, ranges["root"].infinite) == (0, 2)
    assert by_headroom(ranges.values())[0].output == "square"


def test_a_mask_of_infinities_is_not_an_overflow(tmp_path):
    mask = np.where(np.arange(100) < 3, -np.inf, 0).astype(np.float16)[None]
    path = package_of_program(tmp_path, [fp16(1, 100)], lambda x: mb.add(x=x, y=mask, name="y"))
    ranges = measure(path, np.ones((1, 100), np.float16))
    assert (ranges["y"].overflowed, ranges["y"].infinite, ranges["y"].peak) == (0, 3, 1)


def test_infinities_of_finite_operands_count_as_overflow_beyond_fp32_too(tmp_path):
    path = package_of_program(tmp_path, [fp16(1, 100)], lambda x: mb.exp(x=x, name="y"))
    ranges = measure(path, np.full((1, 100), 100, np.float16))
    assert (ranges["y"].overflowed, ranges["y"].peak) == (100, 0)


def test_nan_and_subnormal_results_are_counted(tmp_path):
    def body(x):
        return mb.square(x=x, name="square"), mb.sqrt(x=x, name="root")

    path = package_of_program(tmp_path, [fp16(1, 100)], body)
    x = np.ones((1, 100), np.float16)
    x[0, :7], x[0, 7:10], x[0, 10] = 2**-9, -4, 0
    for precision in ("fp16", "ane"):
        ranges = measure(path, x, precision)
        assert (ranges["square"].subnormal, ranges["square"].undefined) == (7, 0)
        assert (ranges["root"].subnormal, ranges["root"].undefined, ranges["root"].overflowed) == (0, 3, 0)


def test_ranges_of_several_predictions_are_merged(squares):
    network = MILNetwork(squares, precision="fp16", record=True)
    for size in (1, 60, 2):
        network.predict({"x": np.full((1, 100), size, np.float16)})
    assert network.ranges["square"].count == 300
    assert network.ranges["square"].overflowed == 100
    assert network.ranges["scaled"].peak == 480


def test_fp32_tells_what_would_overflow_without_letting_it(squares):
    network = MILNetwork(squares, record=True)
    assert network.predict({"x": np.full((1, 100), 60, np.float16)})["root"].max() == 480
    assert network.ranges["square"].overflowed == 100
    assert network.ranges["mean"].overflowed == 2
    assert network.ranges["mean"].peak == 480**2


def test_the_engines_limits_are_what_headroom_is_measured_to(tmp_path):
    def body(x):
        product = mb.matmul(x=x, y=np.full((100, 1), 1, np.float16), name="product")
        return product, mb.slice_by_index(x=x, begin=[0, 1], end=[1, 100], name="slice")

    path = package_of_program(tmp_path, [fp16(1, 100)], body)
    x = np.full((1, 100), 300, np.float16)
    ranges = measure(path, x, "ane")
    assert ranges["product"].headroom_db == pytest.approx(20 * math.log10(32752 / 30000))
    assert ranges["slice"].headroom_db == pytest.approx(20 * math.log10(4094 / 300))
    assert set(measure(path, x, "ane", narrow_slices=False)) == set(measure(path, x, "fp16")) == {"product"}
    assert measure(path, x * np.float16(1.2), "ane")["product"].overflowed == 1


def test_nothing_is_recorded_unless_asked(squares):
    network = MILNetwork(squares, precision="fp16")
    network.predict({"x": np.ones((1, 100), np.float16)})
    assert network.ranges == {}


def test_the_report_has_the_worst_first_and_counts_what_follows(squares):
    lines = report(measure(squares, np.full((1, 100), 60, np.float16)).values(), most=2).splitlines()
    assert lines[1].split()[:2] == ["square", "square"]
    assert lines[1].endswith("-10.9 dB  100.00% overflow")
    assert lines[2].split()[:3] == ["scaled", "mul", "480"]
    assert lines[2].endswith("42.7 dB")
    assert lines[3] == "2 operations after these have infinities or NaN in their results"


def test_sdxls_autoencoder_is_found_to_overflow_and_where_and_ours_not_to(tmp_path):
    settings = {"scaling_factor": 0.13025, "force_upcast": True}
    torch.manual_seed(0)
    module = tiny_vae(**settings)
    with torch.no_grad():
        for block in (m for m in module.decoder.modules() if isinstance(m, ResnetBlock2D)):
            block.norm2.weight.mul_(400)
            block.conv2.weight.mul_(600)
            block.conv2.bias.normal_(0, 2000)
    halved(module)
    inputs = {"z": np.random.default_rng(3).standard_normal((1, 4, SIDE // 8, SIDE // 8)).astype(np.float16)}
    ranges = {}
    for name, config in (("plain", {"force_upcast": False}), ("ours", {})):
        path = package_of(
            module,
            tmp_path / name,
            lambda layers, config=config: vae_decoder(layers, dict(module.config) | config, height=SIDE, width=SIDE),
        )
        network = MILNetwork(path, precision="fp16", record=True)
        (image,) = network.predict(inputs).values()
        ranges[name] = np.isfinite(image).all(), by_headroom(network.ranges.values())
    finite, worst = ranges["plain"]
    assert not finite
    assert worst[0].overflowed > 0
    assert worst[0].headroom_db < 0
    assert sum(r.overflowed == 0 and r.infinite + r.undefined > 0 for r in worst) > 5
    finite, worst = ranges["ours"]
    assert finite
    assert worst[0].overflowed == 0
    assert worst[0].headroom_db > 0
