"""Networks with compressed weights: how the engines keep and use them, and quantized activations beside them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from converter.mil import FP16, MACOS15, Graph, Weights
from converter.mil.package import write_package
from converter.runtime.compressed import Compressed
from converter.runtime.fast.kernels import kernels
from converter.runtime.fast.network import FastNetwork
from converter.runtime.mil import MILNetwork
from converter.runtime.program import read_program
from converter.weights.blob import BlobWriter
from converter.weights.encodings import Encoding
from tests.support.mil_packages import METADATA

# coremltools 9.0 leaves its folders of intermediate models to the garbage collector, which reports it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SHAPE = (64, 32, 3, 3)
WEIGHT = (np.random.default_rng(3).standard_normal(SHAPE) * 0.05).astype(np.float16)


def package(folder, encoding, side, array=WEIGHT):
    """Write a program of one convolution of images of ``side`` pixels by a weight, compressed if ``encoding`` says how."""
    folder.mkdir()
    with BlobWriter(folder / "weights") as writer, Weights(writer, lambda size: None) as weights:
        graph = Graph(weights, MACOS15)
        x = graph.input("x", (1, SHAPE[1], side, side), FP16)
        kernel = (
            graph.weight("kernel", SHAPE, np.dtype(np.float16), lambda: array)
            if encoding is None
            else graph.compressed_weight("kernel", SHAPE, lambda: array, encoding)
        )
        graph.output(graph.conv(x, kernel, None, "convolved", pad=1), "y")
    write_package(folder / "m.mlpackage", graph, folder / "weights", about="test", describe=str, metadata=METADATA)
    return folder / "m.mlpackage"


def image(side):
    return {"x": np.random.default_rng(0).standard_normal((1, SHAPE[1], side, side)).astype(np.float16)}


def kept_bytes(network):
    """The memory of the constants that a network keeps."""
    constants = [value for step in network._steps for value in step.constants.values()]
    return sum(value.nbytes for value in constants if isinstance(value, torch.Tensor))


@pytest.mark.parametrize(
    "encoding", [Encoding("palette", 6), Encoding("palette", 4, 16), Encoding("linear", 8), Encoding("linear", 4, 16)]
)
def test_a_network_gives_what_it_gives_with_the_decoded_weights(tmp_path, encoding):
    compressed = package(tmp_path / "compressed", encoding, 32)
    (value,) = (v for op in read_program(compressed).operations for v in op.constants.get("weight", ()))
    dense = package(tmp_path / "dense", None, 32, value.dense())
    for engine in (MILNetwork, FastNetwork):
        np.testing.assert_array_equal(
            engine(compressed).predict(image(32))["y"], engine(dense).predict(image(32))["y"], err_msg=engine.__name__
        )


def test_weights_used_for_many_rows_stay_compressed_and_others_are_decoded_once(tmp_path):
    large, small = (MILNetwork(package(tmp_path / f"{n}", Encoding("palette", 6), n)) for n in (32, 8))
    assert kept_bytes(large) < 1000
    assert WEIGHT.size * 4 <= kept_bytes(small) < WEIGHT.size * 4 + 1000
    uncompressed = MILNetwork(package(tmp_path / "fp16", None, 32))
    assert WEIGHT.size * 4 <= kept_bytes(uncompressed) < WEIGHT.size * 4 + 1000


def test_the_compiled_engine_decodes_each_weight_once(tmp_path, monkeypatch):
    decoded = []
    original = Compressed.dense

    def counted(self, dtype=None):
        decoded.append(self.name)
        return original(self, dtype)

    monkeypatch.setattr(Compressed, "dense", counted)
    network = FastNetwork(package(tmp_path / "m", Encoding("palette", 6), 8))
    network.predict(image(8))
    assert len([name for name in decoded if name.startswith("kernel")]) == 1


def quantized(ct, path, kind, zero):
    """Write a convolution of 8-bit activations by 8-bit weights; return what it gives for an image of 8 pixels."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    rng = np.random.default_rng(1)
    integers = rng.integers(-127, 128, SHAPE).astype(np.int8)
    integers[:, 0, 0, 0] = 127
    weight_scale = (rng.uniform(0.5, 1, (SHAPE[0], 1, 1, 1)) / 1024).astype(np.float16)
    scale, zero_point = np.float16(0.03), np.array(zero, kind)

    @mb.program(input_specs=[mb.TensorSpec((1, SHAPE[1], 8, 8), dtype=types.fp16)], opset_version=ct.target["iOS18"])
    def program(x):
        weight = mb.constexpr_blockwise_shift_scale(data=integers, scale=weight_scale)
        whole = mb.quantize(input=x, scale=scale, zero_point=zero_point, output_dtype=kind)
        back = mb.dequantize(input=whole, scale=scale, zero_point=zero_point)
        return mb.conv(x=back, weight=weight, pad_type="custom", pad=[1, 1, 1, 1], name="y")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ct.convert(
            program,
            pass_pipeline=ct.PassPipeline.EMPTY,
            minimum_deployment_target=ct.target["iOS18"],
            skip_model_load=True,
        ).save(str(path))
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    steps = np.clip(np.round(image(8)["x"].astype(np.float64) / float(scale)) + zero, low, high) - zero
    exact = torch.nn.functional.conv2d(
        torch.from_numpy(steps), torch.from_numpy(integers.astype(np.float64)), padding=1
    )
    return exact.numpy() * float(scale) * weight_scale.reshape(1, -1, 1, 1).astype(np.float64)


@pytest.mark.parametrize(("kind", "zero"), [("int8", -3), ("uint8", 120)])
def test_quantized_activations_by_quantized_weights(ct, tmp_path, kind, zero):
    path = tmp_path / "m.mlpackage"
    expected = quantized(ct, path, kind, zero)
    reference, network = MILNetwork(path), FastNetwork(path)
    for engine in (reference, network):
        (y,) = engine.predict(image(8)).values()
        # Weights are rounded to fp16 once they are scaled, as the program says, and so is the result.
        np.testing.assert_allclose(
            y, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max(), err_msg=str(type(engine))
        )
    if kernels() is not None:
        (steps,) = network._compiled.values()
        assert [step.node.kind for step in steps if "rows" in step.node.kind] == ["quantized_rows"]
        assert "dequantize" not in {step.node.kind for step in steps}
