"""What fp16 and the Neural Engine's arithmetic make of operations."""

from __future__ import annotations

import numpy as np
import pytest

from converter.networks.features import random_inputs
from converter.runtime.mil import MILNetwork
from converter.sources.checkpoint import Checkpoint
from converter.verification.reference import ReferenceNetwork
from tests.support.fp16_programs import fp16, mb, package_of_program, types
from tests.support.mil_packages import psnr

RNG = np.random.default_rng(0)


def ran(path, inputs, precision, **how):
    return MILNetwork(path, precision=precision, **how).predict(inputs)


def test_every_operation_rounds_as_numpy_rounds_it_in_fp16(tmp_path):
    a, b = (RNG.standard_normal((3, 50)).astype(np.float16) for _ in range(2))

    def body(x, y):
        z = mb.add(x=mb.mul(x=x, y=y), y=np.float16(0.1))
        z = mb.real_div(x=z, y=mb.add(x=mb.abs(x=y), y=np.float16(0.3)))
        return mb.sub(x=mb.square(x=z), y=mb.sqrt(x=mb.abs(x=x)), name="z")

    path = package_of_program(tmp_path, [fp16(3, 50), fp16(3, 50)], body)
    z = (a * b + np.float16(0.1)) / (np.abs(b) + np.float16(0.3))
    expected = z * z - np.sqrt(np.abs(a))
    assert expected.dtype == np.float16
    actual = ran(path, {"x": a, "y": b}, "fp16")["z"]
    np.testing.assert_array_equal(actual, expected)
    exact = ran(path, {"x": a, "y": b}, "fp32")["z"]
    assert (exact != expected).any()


def test_coremltools_own_evaluation_in_fp16_agrees(tmp_path):
    given, evaluated = RNG.standard_normal((4, 25)).astype(np.float16), []

    def layer(x):
        # Of operations that it evaluates in one step: NumPy's exp and the like are not exact to fp16's last place.
        y = mb.clip(x=mb.mul(x=x, y=np.float16(1.7)), alpha=np.float16(-1.1), beta=np.float16(1.3))
        y = mb.real_div(x=y, y=mb.add(x=mb.square(x=x), y=np.float16(0.7)))
        y = mb.sub(x=mb.sqrt(x=mb.abs(x=y)), y=mb.floor(x=mb.mul(x=x, y=np.float16(3.3))))
        return mb.mul(x=mb.maximum(x=y, y=x), y=mb.minimum(x=y, y=np.float16(0.9)))

    def body(x):
        evaluated.append(layer(given).val)
        return layer(x)

    path = package_of_program(tmp_path, [fp16(4, 25)], body)
    (actual,) = ran(path, {"x": given}, "fp16").values()
    assert evaluated[0].dtype == np.float16
    np.testing.assert_array_equal(actual, evaluated[0])


def test_sums_inside_an_operation_are_kept_in_fp32(tmp_path):
    # One by one in fp16, 4096 ones add up to 2048.
    ones = np.ones((1, 4096), np.float16)

    def body(x):
        return mb.matmul(x=x, y=np.ones((4096, 1), np.float16), name="y"), mb.reduce_sum(x=x, axes=[1], name="z")

    path = package_of_program(tmp_path, [fp16(1, 4096)], body)
    actual = ran(path, {"x": ones}, "fp16")
    assert actual["y"].item() == actual["z"].item() == 4096


def test_what_exceeds_fp16_is_infinite_and_subnormal_numbers_stay(tmp_path):
    path = package_of_program(tmp_path, [fp16(1, 4)], lambda x: mb.mul(x=x, y=np.float16(2), name="y"))
    given = np.array([[32752, 32768, -40000, 2**-16]], np.float16)
    np.testing.assert_array_equal(ran(path, {"x": given}, "fp16")["y"], [[65504, np.inf, -np.inf, 2**-15]])


def test_islands_of_fp32_and_integers_are_not_rounded(tmp_path):
    def body(x):
        wide = mb.mul(x=mb.cast(x=x, dtype="fp32"), y=np.float32(1.00001))
        count = mb.mul(x=mb.cast(x=x, dtype="int32"), y=np.int32(1001))
        return mb.identity(x=wide, name="wide"), mb.identity(x=count, name="count"), mb.cast(x=wide, dtype="fp16")

    path = package_of_program(tmp_path, [fp16(1, 2)], body)
    wide, count, narrow = ran(path, {"x": np.array([[3, 70]], np.float16)}, "fp16").values()
    np.testing.assert_array_equal(wide, np.float32([[3, 70]]) * np.float32(1.00001))
    np.testing.assert_array_equal(count, [[3003, 70070]])
    np.testing.assert_array_equal(narrow, wide.astype(np.float16))


def test_inputs_of_fp32_are_taken_exactly_where_the_package_declares_them_so(tmp_path):
    spec = mb.TensorSpec((1, 1), dtype=types.fp32)
    path = package_of_program(tmp_path, [spec], lambda x: mb.add(x=x, y=np.float32(0), name="y"))
    given = np.float32([[1.0001]])
    assert ran(path, {"x": given}, "fp16")["y"] == given


@pytest.mark.parametrize(("length", "total"), [(32, 32000), (33, np.inf), (-33, -np.inf)])
def test_the_engines_products_are_infinite_beyond_half_of_fp16(tmp_path, length, total):
    count, sign = abs(length), np.sign(length)
    weight = np.full((count, 2), sign, np.float16)
    path = package_of_program(tmp_path, [fp16(1, count)], lambda x: mb.matmul(x=x, y=weight, name="y"))
    given = {"x": np.full((1, count), 1000, np.float16)}
    np.testing.assert_array_equal(ran(path, given, "ane")["y"], [[total, total]])
    assert np.isfinite(ran(path, given, "fp16")["y"]).all()


def test_the_engines_convolutions_and_einsums_share_that_limit_and_sums_do_not(tmp_path):
    def body(x):
        weight = np.full((1, 4, 1, 1), 1, np.float16)
        key = np.full((1, 1, 1, 4), 1, np.float16)
        return (
            mb.conv(x=x, weight=weight, name="conv"),
            mb.einsum(values=(key, x), equation="bkhc,bchq->bkhq", name="einsum"),
            mb.reduce_sum(x=x, axes=[1], name="sum"),
        )

    path = package_of_program(tmp_path, [fp16(1, 4, 1, 2)], body)
    actual = ran(path, {"x": np.tile(np.float16([8000, 9000]), (4, 1)).reshape(1, 4, 1, 2)}, "ane")
    assert {name: array.reshape(-1).tolist() for name, array in actual.items()} == {
        "conv": [32000, np.inf],
        "einsum": [32000, np.inf],
        "sum": [32000, 36000],
    }


@pytest.mark.parametrize("begin", [0, 1])
@pytest.mark.parametrize("narrow", [True, False])
def test_a_slice_within_the_last_axis_is_narrow_on_engines_before_a16(tmp_path, begin, narrow):
    def body(x):
        by_index = mb.slice_by_index(x=x, begin=[0, begin], end=[1, begin + 2], name="by_index")
        masked = mb.slice_by_index(x=x, begin=[0, begin], end=[1, 2], begin_mask=[False, True], name="masked")
        return by_index, masked, mb.slice_by_size(x=x, begin=[0, begin], size=[1, 2], name="by_size")

    path = package_of_program(tmp_path, [fp16(1, 3)], body)
    given = np.array([[4094, 4096, -4096]], np.float16)
    actual = ran(path, {"x": given}, "ane", narrow_slices=narrow)
    expected = given[:, begin : begin + 2].astype(np.float32)
    if narrow and begin:
        expected = np.where(np.abs(expected) > 4094, np.sign(expected) * np.inf, expected)
    np.testing.assert_array_equal(actual["by_index"], expected)
    np.testing.assert_array_equal(actual["by_size"], expected)
    np.testing.assert_array_equal(actual["masked"], given[:, :2])


def test_the_engine_takes_subnormal_results_for_zero(tmp_path):
    path = package_of_program(tmp_path, [fp16(1, 3)], lambda x: mb.square(x=x, name="y"))
    given = {"x": np.array([[2**-7, 2**-8, 1]], np.float16)}
    np.testing.assert_array_equal(ran(path, given, "ane")["y"], [[2**-14, 0, 1]])
    np.testing.assert_array_equal(ran(path, given, "fp16")["y"], [[2**-14, 2**-16, 1]])


def test_an_unknown_precision_is_refused(model_folder):
    with pytest.raises(ValueError, match="precision is 'bf16'; accepted: fp32, fp16, ane"):
        MILNetwork(model_folder.package("unet", 64, 64), precision="bf16")


@pytest.mark.parametrize("network", ["unet", "text_encoder", "vae_decoder", "vae_encoder"])
def test_a_converted_network_is_near_its_source_in_fp16_too(checkpoint, model_folder, network):
    source, part = Checkpoint.open(checkpoint), "vae" if network.startswith("vae") else network
    package = model_folder.package(network, *((64, 64) if network != "text_encoder" else ()))
    ours = {precision: MILNetwork(package, precision=precision) for precision in ("fp32", "fp16", "ane")}
    config = source.config(part)
    reference = ReferenceNetwork(network, config, source.tensors(part), ours["fp32"].inputs, ours["fp32"].outputs)
    inputs = random_inputs(reference.inputs, config)
    expected = reference.predict(inputs)
    least = {
        precision: min(psnr(array, expected[name]) for name, array in one.predict(inputs).items())
        for precision, one in ours.items()
    }
    assert least["fp32"] > least["fp16"] + 6
    assert least["fp16"] > 60
    assert least["ane"] > 60
