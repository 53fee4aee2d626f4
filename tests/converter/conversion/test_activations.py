"""Layers that take their inputs in 8 bits (W8A8): their operations, their results, and what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from converter.conversion.convert import convert
from converter.conversion.planning import make_plan
from converter.errors import AnemoneError
from converter.mil import FP16, MACOS14, Graph, Weights
from converter.mil.package import write_package
from converter.networks.registry import UNET
from converter.options import ConvertOptions
from converter.runtime.program import read_model
from converter.sources.source import open_source
from converter.weights.activations import Activations
from converter.weights.blob import BlobWriter
from converter.weights.encodings import Encoding
from tests.support.mil_packages import METADATA, as_written

W8A8 = {"bits": 8, "quantization": "linear", "target": "macOS14"}


@pytest.fixture
def ranges(checkpoint, tmp_path):
    """Write a file of activations for the tiny UNet's layers but the first, which loses too much."""

    def write(**changes):
        layers = list(make_plan(open_source(checkpoint), ConvertOptions()).layers(UNET.name))
        content = {layer: {"largest": 8.0, "psnr_db": 50.0} for layer in layers if "time" not in layer}
        path = tmp_path / "activations.json"
        path.write_text(json.dumps({"activations": content | {"conv_in": {"largest": 4.0, "psnr_db": 39.9}} | changes}))
        return str(path)

    return write


def kinds(package):
    model = read_model(package).mlProgram.functions["main"]
    (block,) = model.block_specializations.values()
    return [op.type for op in block.operations]


def test_layers_that_lose_little_are_rounded_and_the_network_is_verified(checkpoint, ranges, tmp_path):
    agreed = {}
    made = convert(
        checkpoint, tmp_path / "out", ConvertOptions(**W8A8, activations=ranges()), verified=agreed.__setitem__
    )
    assert made.manifest.precision == "8-bit integers and 8-bit activations"
    found = kinds(made.path / made.best("unet", 64, 64).path)
    assert found.count("quantize") == found.count("dequantize") > 10
    # An input that several layers share is rounded once.
    assert found.count("quantize") < found.count("conv")
    assert 20 < agreed["unet"] < 60
    assert "quantize" not in kinds(made.path / made.best("text_encoder").path)


def test_a_rounded_layer_computes_what_integers_give(ct, tmp_path):
    rng = np.random.default_rng(0)
    weight, x = (rng.standard_normal(shape).astype(np.float16) for shape in ((64, 48, 3, 3), (1, 48, 6, 6)))
    with BlobWriter(tmp_path / "weights") as writer, Weights(writer, lambda size: None) as weights:
        graph = Graph(weights, MACOS14)
        entry = graph.input("x", x.shape, FP16)
        kernel = graph.compressed_weight("kernel", weight.shape, lambda: weight, Encoding("linear", 8))
        graph.output(graph.conv(graph.rounded(entry, 0.02, "layer.input"), kernel, None, "layer", pad=1), "y")
    path = tmp_path / "m.mlpackage"
    write_package(path, graph, tmp_path / "weights", about="test", describe=str, metadata=METADATA)
    step = np.abs(weight).max(axis=(1, 2, 3)) / np.float32(127)
    step = step.astype(np.float16).astype(np.float64)
    integers = np.clip(np.round(weight.astype(np.float64) / step.reshape(-1, 1, 1, 1)), -127, 127)
    rounded = np.clip(np.round(x.astype(np.float64) / np.float64(np.float16(0.02))), -128, 127)
    padded = np.pad(rounded, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[0]
    expected = np.einsum("chwij,ocij->ohw", windows, integers) * step.reshape(-1, 1, 1) * np.float64(np.float16(0.02))
    np.testing.assert_allclose(as_written(path).predict({"x": x})["y"][0], expected, rtol=2e-3, atol=2e-2)
    program = ct.models.MLModel(str(path), skip_model_load=True).get_spec().mlProgram
    assert "quantize" in str(program)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"bits": 6}, "activations are for 8-bit linear weights; give bits 8 and quantization linear too"),
        ({"bits": 8, "quantization": "linear"}, "activations of 8 bits need macOS 14, and the target is macOS13"),
    ],
)
def test_options_that_do_not_fit_are_refused(checkpoint, ranges, options, why):
    with pytest.raises(AnemoneError, match=why):
        make_plan(open_source(checkpoint), ConvertOptions(**options, activations=ranges()))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"down_blocks.7.conv": {"largest": 1.0, "psnr_db": 50.0}}, r"no layer 'down_blocks\.7\.conv'"),
        *(
            ({"conv_out": {"largest": value, "psnr_db": 50.0}}, rf"conv_out\.largest: .*{why}")
            for value, why in [
                # 1e-6 and 9e6 over 127 are 0 and infinite in fp16.
                *[(0.0, "greater"), (-1.0, "greater"), (1e-6, "greater"), (9e6, "less"), (1e308, "less")],
                *[(math.nan, "finite"), ("1", "number"), (True, "number")],
            ]
        ),
        ({"conv_out": {"largest": 1.0}}, r"conv_out\.psnr_db"),
        ({"conv_out": 3}, "conv_out"),
    ],
)
def test_a_file_for_another_model_or_of_another_kind_is_refused(checkpoint, ranges, changes, why):
    with pytest.raises(AnemoneError, match=why):
        make_plan(open_source(checkpoint), ConvertOptions(**W8A8, activations=ranges(**changes)))


def test_a_file_by_which_no_layer_would_be_rounded_is_refused(tmp_path):
    path = tmp_path / "activations.json"
    path.write_text(json.dumps({"activations": {"conv_in": {"largest": 4.0, "psnr_db": 39.9}}}))
    with pytest.raises(AnemoneError, match=r"no layer in .*activations\.json keeps 40 dB .*; leave it out"):
        Activations.read(str(path))


def test_a_file_of_recipes_is_no_file_of_activations(tmp_path):
    path = tmp_path / "recipes.json"
    path.write_text(json.dumps({"recipes": {"a": {"conv_in": 4}}}))
    with pytest.raises(
        AnemoneError, match=r"is no file of activations .*accepted: what `anemone analyze --activations`"
    ):
        Activations.read(str(path))
