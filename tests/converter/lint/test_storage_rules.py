"""What a package declares and stores: shapes, sizes, versions, compression, superfluous weights, traffic."""

from __future__ import annotations

import numpy as np
import pytest

from converter.lint import lint_package
from converter.lint.rules import storage
from converter.mil import FP16, MACOS15, Graph, Weights
from converter.mil.package import write_functions
from converter.weights.blob import BlobWriter

ROW = (1, 64, 1, 256)


@pytest.fixture
def palette(mil):
    """A convolution's weights [64, 64, 1, 1] in a form of compression."""

    def weight(kind):
        mb, rng = mil.mb, np.random.default_rng(0)
        if kind == "constexpr_lut_to_dense":
            return mb.constexpr_lut_to_dense(
                indices=rng.integers(0, 256, 2048, np.uint8),
                lut=np.arange(16, dtype=np.float16),
                shape=np.array([64, 64, 1, 1], np.uint32),
            )
        if kind == "constexpr_affine_dequantize":
            return mb.constexpr_affine_dequantize(
                quantized_data=rng.integers(-128, 128, (64, 64, 1, 1), np.int8),
                zero_point=np.int8(0),
                scale=np.float16(0.01),
                axis=np.int32(0),
            )
        if kind == "constexpr_blockwise_shift_scale":
            data = rng.integers(-128, 128, (64, 64, 1, 1), np.int8)
            return mb.constexpr_blockwise_shift_scale(data=data, scale=np.full((64, 1, 1, 1), 0.01, np.float16))
        return mb.constexpr_cast(source_val=np.ones((64, 64, 1, 1), np.float16), output_dtype="fp32")

    return weight


def test_a_flexible_input_is_an_error(mil, linted, serious):
    findings = linted(lambda x: mil.mb.relu(x=x), (1, 64, 1, mil.symbol()))
    assert serious(findings) == {"E4"}
    places = findings[0].places
    assert [p.operation for p in places] == ["input", "relu"]
    assert places[1].shapes == ((1, 64, 1, None),)


def test_enumerated_shapes_are_an_error(mil, package, edited, serious):
    def change(model):
        array = model.description.input[0].type.multiArrayType
        for width in (256, 512):
            array.enumeratedShapes.shapes.add().shape.extend((1, 64, 1, width))

    fixed = package(lambda x: mil.mb.relu(x=x), ROW)
    assert not serious(lint_package(fixed))
    assert serious(lint_package(edited(fixed, change))) == {"E4"}


@pytest.mark.parametrize(("limit", "broken"), [(8192, set()), (8191, {"E6"})])
def test_a_weight_is_checked_against_the_limit_of_the_compiler(linted, conv, serious, monkeypatch, limit, broken):
    monkeypatch.setattr(storage, "_LARGEST_WEIGHT", limit)
    assert serious(linted(lambda x: conv(x, 64), ROW)) == broken


@pytest.mark.parametrize(
    ("kind", "chip", "broken"),
    [
        (None, "M1", {"E6"}),
        ("constexpr_lut_to_dense", "M1", set()),
        ("constexpr_affine_dequantize", "M1", {"E6", "E9"}),
        ("constexpr_affine_dequantize", "M2", set()),
    ],
)
def test_all_weights_count_by_their_size_in_memory(
    mil, linted, conv, serious, palette, monkeypatch, kind, chip, broken
):
    monkeypatch.setattr(storage, "_LARGEST_PROGRAM", 8000)

    def build(x):
        return conv(x, 64) if kind is None else mil.mb.conv(x=x, weight=palette(kind))

    findings = linted(build, ROW, chip=chip)
    assert serious(findings) == broken
    if kind == "constexpr_affine_dequantize" and chip == "M1":
        (finding,) = (f for f in findings if f.rule == "E6")
        assert finding.places[0].detail == "8.0 kB at run time, 4.0 kB in the package"


@pytest.mark.parametrize(
    ("kind", "target", "chip", "broken"),
    [
        ("constexpr_lut_to_dense", "iOS16", "M1", set()),
        ("constexpr_affine_dequantize", "iOS16", "M1", {"E9"}),
        ("constexpr_affine_dequantize", "iOS16", "M2", set()),
        ("constexpr_blockwise_shift_scale", "iOS18", "M2", {"E9"}),
        ("constexpr_blockwise_shift_scale", "iOS18", "M3", set()),
    ],
)
def test_some_chips_read_compressed_weights_directly(mil, linted, serious, palette, kind, target, chip, broken):
    findings = linted(lambda x: mil.mb.conv(x=x, weight=palette(kind)), ROW, target=target, chip=chip)
    assert serious(findings) == broken


def test_weights_that_are_cast_when_loaded_are_an_error(mil, linted, palette):
    findings = linted(lambda x: mil.mb.conv(x=x, weight=palette("constexpr_cast")), (ROW, "fp32"))
    (finding,) = (f for f in findings if f.rule == "E9")
    assert (finding.level, finding.places[0].operation) == ("error", "constexpr_cast")


@pytest.mark.parametrize(("version", "broken"), [(7, set()), (6, {"E7"})])
def test_a_package_of_an_older_version_than_it_needs_is_an_error(mil, package, edited, serious, version, broken):
    path = package(lambda x: mil.mb.relu(x=x), ROW)
    findings = lint_package(edited(path, lambda model: setattr(model, "specificationVersion", version)))
    assert serious(findings) == broken
    if broken:
        assert {p.operation for p in findings[0].places} == {"program", "input", "output"}


def test_an_operation_newer_than_its_opset_is_an_error(mil, package, edited, serious):
    def change(model):
        function = model.mlProgram.functions["main"]
        function.block_specializations["CoreML6"].CopyFrom(function.block_specializations["CoreML8"])
        del function.block_specializations["CoreML8"]
        function.opset = "CoreML6"

    shape = (1, 8, 64, 32)
    path = package(lambda q: mil.mb.scaled_dot_product_attention(query=q, key=q, value=q), shape, target="iOS18")
    assert serious(lint_package(path)) == {"W8"}
    assert serious(lint_package(edited(path, change))) == {"W8", "E7"}


@pytest.mark.parametrize("equal", [True, False])
def test_the_same_weight_stored_twice_is_found(own_package, serious, equal):
    def build(g):
        x = g.input("x", (1, 256, 1, 256), FP16)
        for index in range(2):
            values = np.full((256, 256, 1, 1), 0.01, np.float16)
            values[-1, -1] = 0 if equal else index
            x = g.conv(x, g.weight(f"w{index}", values.shape, FP16, lambda v=values: v), None, f"conv{index}")
        g.output(x, "y")

    findings = lint_package(own_package(build))
    assert serious(findings) == ({"W7"} if equal else set())
    if equal:
        assert [p.name for p in findings[0].places] == ["w1"]


def test_an_unused_weight_is_found(own_package, serious):
    def build(g):
        g.weight("forgotten", (256, 256), FP16, lambda: np.ones((256, 256), np.float16))
        g.output(g.unary("relu", g.input("x", ROW, FP16), "relu"), "y")

    findings = lint_package(own_package(build))
    assert serious(findings) == {"W7"}
    (finding,) = (f for f in findings if f.rule == "W7")
    assert [(p.name, p.shapes) for p in finding.places] == [("forgotten", ((256, 256),))]


def test_an_integer_input_is_a_warning(mil, linted, serious):
    table = np.ones((1000, 8), np.float16)
    assert serious(linted(lambda i: mil.mb.gather(x=table, indices=i, axis=0), ((1, 77), "int32"))) == {"W11"}

    def build(i):
        return mil.mb.gather(x=table, indices=mil.mb.cast(x=i, dtype="int32"), axis=0)

    assert not serious(linted(build, ((1, 77), "fp32")))


def test_inputs_and_outputs_that_are_cast_or_large_are_notes(mil, linted, serious, noted):
    findings = linted(lambda x: mil.mb.cast(x=mil.mb.relu(x=x), dtype="fp32"), (1, 64, 512, 512))
    assert not serious(findings)
    assert [f.places[0].operation for f in findings if f.rule == "W11"] == ["output", "program"]
    assert noted(linted(lambda x: mil.mb.relu(x=x), ROW)) == set()


@pytest.mark.parametrize(("shape", "broken"), [((1, 64, 512, 1), {"W11"}), ((1, 64, 1, 512), set()), ((2, 1), set())])
def test_an_input_of_a_single_column_is_a_warning(mil, linted, serious, shape, broken):
    assert serious(linted(lambda x: mil.mb.relu(x=x), shape)) == broken


def test_every_function_of_a_package_is_read(tmp_path, serious):
    with BlobWriter(tmp_path / "weights") as writer:
        weights = Weights(writer, lambda size: None)
        graphs = {}
        for name, width in (("small", 256), ("large", 20000)):
            graph = Graph(weights, MACOS15)
            weight = graph.weight("w", (4, 4, 1, 1), FP16, lambda: np.ones((4, 4, 1, 1), np.float16))
            graph.output(graph.conv(graph.input("x", (1, 4, 1, width), FP16), weight, None, "conv"), "y")
            graphs[name] = graph
    path = tmp_path / "several.mlpackage"
    metadata = {"com.github.apple.coremltools.version": "9.0"}
    words = {"about": "test", "describe": str, "metadata": metadata}
    write_functions(path, graphs, tmp_path / "weights", default="small", **words)
    findings = lint_package(path)
    assert serious(findings) == {"E3"}
    assert {p.function for p in findings[0].places} == {"large"}


def test_several_functions_in_a_package_too_old_for_them_are_an_error(mil, package, edited):
    def change(model):
        model.mlProgram.functions["other"].CopyFrom(model.mlProgram.functions["main"])

    findings = lint_package(edited(package(lambda x: mil.mb.relu(x=x), ROW), change))
    (finding,) = (f for f in findings if f.rule == "E7")
    assert {p.function for p in finding.places} == {"main", "other"}
    assert finding.places[0].detail == "several functions came with version 9; the package is version 7"
