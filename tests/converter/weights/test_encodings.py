"""Compressed weights: stored as coremltools stores them, and decoded by it to what we meant."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest

from converter.mil import FP16, MACOS13, MACOS15, Graph, TargetError, Weights
from converter.mil.package import WEIGHTS, write_package
from converter.runtime.program import read_model, read_program
from converter.weights.blob import BlobWriter
from converter.weights.encodings import Encoding, Encodings
from tests.support.mil_packages import METADATA

# coremltools 9.0 leaves its folders of intermediate models to the garbage collector, which reports it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SHAPE = (64, 32, 3, 3)
FORMS = [
    *((Encoding("palette", bits), MACOS13) for bits in (1, 2, 4, 6, 8)),
    (Encoding("linear", 8), MACOS13),
    *((Encoding("palette", bits), MACOS15) for bits in (1, 3, 6)),
    (Encoding("palette", 4, 16), MACOS15),
    (Encoding("linear", 8), MACOS15),
    (Encoding("linear", 4, 8), MACOS15),
]
names = [f"{encoding.description} for {target.name}" for encoding, target in FORMS]


def weight(shape=SHAPE):
    return (np.random.default_rng(3).standard_normal(shape) * 0.05).astype(np.float16)


def package_with(array, encoding, target, folder):
    """Write a program of one convolution by the weight ``array``."""
    with BlobWriter(folder / "weights") as writer, Weights(writer, lambda size: None) as weights:
        graph = Graph(weights, target)
        x = graph.input("x", (1, array.shape[1], 8, 8), FP16)
        kernel = graph.compressed_weight("kernel", array.shape, lambda: array, encoding)
        graph.output(graph.conv(x, kernel, None, "convolved"), "y")
    path = folder / "m.mlpackage"
    write_package(path, graph, folder / "weights", about="test", describe=str, metadata=METADATA)
    return path


def decoding_operation(path, target):
    operations = read_model(path).mlProgram.functions["main"].block_specializations[target.opset].operations
    return next(op for op in operations if op.type.startswith("constexpr"))


def form(op):
    """Return an operation's parameters with their types, whether they are inputs, and whether they are in the file."""

    def stored(value):
        kind = value.type.tensorType
        sizes = tuple(d.constant.size for d in kind.dimensions)
        return kind.dataType, kind.rank, sizes, value.WhichOneof("value")

    inputs = {key: stored(each.arguments[0].value) for key, each in op.inputs.items()}
    return op.type, inputs, {key: stored(value) for key, value in op.attributes.items() if key != "name"}


@pytest.fixture(scope="module")
def compressed_by_coremltools(ct):
    """Return coremltools' own form of a convolution's weight in an encoding."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types
    from coremltools.optimize import coreml

    def compress(encoding, target, path):
        opset = {MACOS13: ct.target.iOS16, MACOS15: ct.target.iOS18}[target]

        @mb.program(input_specs=[mb.TensorSpec((1, SHAPE[1], 8, 8), dtype=types.fp16)], opset_version=opset)
        def program(x):
            return mb.conv(x=x, weight=weight(), name="y")

        model = ct.convert(program, minimum_deployment_target=opset, skip_model_load=True)
        if encoding.kind == "palette":
            size = (
                {} if encoding.group is None else {"granularity": "per_grouped_channel", "group_size": encoding.group}
            )
            # Which palette it is does not change how it is stored; k-means needs scikit-learn for small groups.
            config = coreml.OpPalettizerConfig(mode="uniform", nbits=encoding.bits, **size)
            compressed = coreml.palettize_weights(model, coreml.OptimizationConfig(config))
        else:
            size = {} if encoding.group is None else {"granularity": "per_block", "block_size": encoding.group}
            config = coreml.OpLinearQuantizerConfig("linear_symmetric", dtype=f"int{encoding.bits}", **size)
            compressed = coreml.linear_quantize_weights(model, coreml.OptimizationConfig(config))
        compressed.save(str(path))

    return compress


@pytest.mark.parametrize(("encoding", "target"), FORMS, ids=names)
def test_a_weight_is_stored_as_coremltools_stores_it(compressed_by_coremltools, tmp_path, encoding, target):
    compressed_by_coremltools(encoding, target, tmp_path / "theirs.mlpackage")
    theirs = form(decoding_operation(tmp_path / "theirs.mlpackage", target))
    assert form(decoding_operation(package_with(weight(), encoding, target, tmp_path), target)) == theirs


def constant(path):
    return next(op.constants for op in read_program(path).operations if op.kind == "conv")["weight"][0]


@pytest.mark.parametrize(("encoding", "target"), FORMS, ids=names)
def test_coremltools_and_our_runtime_decode_the_same_weight(ct, tmp_path, encoding, target):
    from coremltools.optimize import coreml

    array = weight()
    path = package_with(array, encoding, target, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense = coreml.decompress_weights(ct.models.MLModel(str(path), skip_model_load=True))
        dense.save(str(tmp_path / "dense.mlpackage"))
    expected = np.asarray(constant(tmp_path / "dense.mlpackage"))
    np.testing.assert_array_equal(constant(path).dense(), expected)
    # A bit less doubles the error of a normal distribution's best palette, about; 1 bit leaves 36 % of its variance.
    error = float(((array.astype(np.float64) - expected) ** 2).sum() / (array.astype(np.float64) ** 2).sum())
    assert error < {1: 0.37, 2: 0.12, 3: 0.036, 4: 0.015, 6: 1e-3, 8: 1e-4}[encoding.bits]


def test_a_weight_takes_the_bytes_that_its_parts_say(tmp_path):
    sizes = []
    for encoding in (Encoding("palette", bits) for bits in (2, 4, 6, 8)):
        folder = tmp_path / str(encoding.bits)
        folder.mkdir()
        sizes.append((package_with(weight(), encoding, MACOS13, folder) / WEIGHTS).stat().st_size)
        assert (
            sum(part.nbytes for part in encoding.parts(SHAPE))
            <= sizes[-1]
            < 1.1 * 64 * 32 * 9 * encoding.bits / 8 + 800
        )
    assert all(a < b for a, b in pairwise(sizes))


def test_groups_are_nearer_than_one_palette_where_channels_differ():
    array = (weight().astype(np.float32) * np.geomspace(0.01, 10, 64).reshape(-1, 1, 1, 1)).astype(np.float16)

    def error(encoding):
        packed, table = encoding.encode(array)
        from converter.weights.blob import unpack

        codes = unpack(packed, encoding.bits, False, (64, *SHAPE[1:]))
        tables = np.repeat(table.view(np.float16).reshape(-1, 1 << encoding.bits), encoding.group or 64, axis=0)
        dense = np.take_along_axis(tables, codes.reshape(64, -1).astype(int), axis=1).reshape(array.shape)
        relative = (dense.astype(np.float64) - array) / np.abs(array).max(axis=(1, 2, 3), keepdims=True)
        return float((relative**2).mean())

    assert error(Encoding("palette", 4, 8)) < error(Encoding("palette", 4)) / 20


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_groups_that_end_within_a_byte_are_packed_without_gaps(bits):
    from converter.weights.blob import unpack

    array = weight((6, 3, 1, 1))
    packed, table = Encoding("palette", bits, 2).encode(array)
    codes = unpack(packed, bits, False, (3, 6)).astype(int)
    dense = np.take_along_axis(table.view(np.float16).reshape(3, -1), codes, axis=1).reshape(array.shape)
    if bits > 2:  # each group has six values
        np.testing.assert_array_equal(dense, array)
    assert np.abs(dense - array).max() < 0.1


def test_a_group_that_does_not_divide_the_channels_means_one():
    palettes, _ = Encoding("palette", 4, 48).parts(SHAPE), Encoding("linear", 4, 20)
    assert [part.shape for part in palettes] == [SHAPE, (1, 1, 1, 1, 16, 1)]
    assert Encoding("linear", 4, 20).parts(SHAPE)[1].shape == (64, 1, 1, 1)


@pytest.mark.parametrize(
    ("encoding", "why"),
    [
        (Encoding("palette", 3), "palettes of 3 bits"),
        (Encoding("palette", 6, 16), "palettes for groups"),
        (Encoding("linear", 4), "linear integers of 4 bits"),
        (Encoding("linear", 8, 32), "scales for blocks"),
    ],
)
def test_what_macos_13_cannot_decode_is_refused(tmp_path, encoding, why):
    with pytest.raises(TargetError, match=f"{why}.* need macOS 15, and the target is macOS13; convert for macOS15"):
        package_with(weight(), encoding, MACOS13, tmp_path)


def test_a_block_of_zeros_and_values_near_fp16s_least_are_finite():
    array = np.zeros((4, 32, 1, 1), np.float16)
    array[1, :, 0, 0], array[2, :, 0, 0] = 6e-8, 65504
    data, scale = Encoding("linear", 8).encode(array)
    dense = data.view(np.int8).reshape(4, -1) * scale.view(np.float16).astype(np.float32).reshape(4, 1)
    np.testing.assert_allclose(dense[2], 65504, rtol=2e-3)
    assert np.isfinite(dense).all()
    np.testing.assert_allclose(dense[:2], array.reshape(4, -1)[:2], atol=1e-7)


@pytest.mark.parametrize("bits", [8, 4])
def test_values_near_fp16s_greatest_are_decoded_to_finite_ones(bits):
    greatest = np.array([[65504, -65504, 65440, 0]], np.float16)
    _, scale = Encoding("linear", bits).encode(greatest)
    decoded = scale.view(np.float16).astype(np.float64) * ((1 << (bits - 1)) - 1)
    assert 0.99 * 65504 < decoded[0] <= 65504


def test_small_weights_and_layers_with_their_own_encoding_are_told_apart():
    usual, own = Encoding("palette", 6), Encoding("palette", 4)
    encodings = Encodings(usual, {"conv_in": None, "mid": own})
    assert encodings.of("mid.to_q", (32, 64)) is None
    assert encodings.of("mid.to_q", (33, 64)) == usual
    assert encodings.of("conv_out", (4, 320, 3, 3)) is encodings.of("conv_in", (320, 9, 3, 3)) is None
    assert encodings.of("conv_in", (320, 320)) is None
    assert encodings.of("mid", (320, 320)) == own
