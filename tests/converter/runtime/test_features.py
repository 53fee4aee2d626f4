"""Declared inputs of packages: flexible shapes, defaults, states, functions."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from converter.mil.mlproto import ml
from converter.runtime import PRECISIONS, Feature, InputError, PackageError, load
from converter.runtime.feature import check_inputs, features
from converter.runtime.program import declared_features, functions, read_program
from tests.support.mil_text import compiled, read_spec
from tests.support.raw_programs import Operation, program_of, write_model

ONE = np.ones(1, np.float32)


class Scaled(nn.Module):
    def forward(self, x, y):
        return torch.nn.functional.silu(x * 2) + y


def converted(ct, path, inputs, examples, module=None, **settings):
    """The module as a package that computes in fp32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ct.convert(
            torch.jit.trace((module or Scaled()).eval(), examples),
            inputs=inputs,
            minimum_deployment_target=ct.target.iOS18,
            skip_model_load=True,
            **{"compute_precision": ct.precision.FLOAT32, **settings},
        ).save(str(path))
    return path


def both(path, tmp_path):
    """A package and its compiled form."""
    return path, compiled(path, tmp_path / "compiled.mlmodelc")


def example_inputs(*shape):
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32), "y": np.ones(shape, np.float32)}


def assert_runs(network, inputs):
    (outputs,) = network.predict(inputs).values()
    x = torch.from_numpy(inputs["x"])
    expected = torch.nn.functional.silu(x * 2).numpy() + inputs.get("y", 0)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_each_enumerated_shape_is_accepted_and_no_other(ct, tmp_path):
    shapes = [(1, 4, 8), (1, 4, 16), (2, 4, 8)]
    inputs = [ct.TensorType(n, ct.EnumeratedShapes(shapes, default=(1, 4, 16)), dtype=np.float32) for n in "xy"]
    package = converted(ct, tmp_path / "m.mlpackage", inputs, [torch.zeros(1, 4, 16)] * 2)
    for path in both(package, tmp_path):
        network = load(path, precision="fp32")
        assert network.inputs["x"].shape == (1, 4, 16)
        assert set(network.inputs["x"].shapes) == set(shapes)
        for shape in shapes:
            assert_runs(network, example_inputs(*shape))
        with pytest.raises(InputError, match=r"x has shape \[2, 4, 16\]; .*\[1, 4, 16\].* or .* is accepted"):
            network.predict(example_inputs(2, 4, 16))


def test_ranges_of_sizes_are_accepted_within_their_bounds(ct, tmp_path):
    shape = ct.Shape((ct.RangeDim(1, 3, default=2), 4, ct.RangeDim(2, 90, default=5)))
    inputs = [ct.TensorType(n, shape, dtype=np.float32) for n in "xy"]
    package = converted(ct, tmp_path / "m.mlpackage", inputs, [torch.zeros(2, 4, 5)] * 2)
    for path in both(package, tmp_path):
        network = load(path, precision="fp32")
        assert (network.inputs["x"].shape, network.inputs["x"].ranges) == ((2, 4, 5), ((1, 3), (4, 4), (2, 90)))
        for sizes in ((2, 4, 5), (1, 4, 2), (3, 4, 70)):
            assert_runs(network, example_inputs(*sizes))
        for sizes in ((4, 4, 5), (2, 5, 5), (2, 4, 1), (2, 4)):
            with pytest.raises(InputError, match=r"\[1 to 3, 4, 2 to 90\] is accepted"):
                network.predict(example_inputs(*sizes))


def test_an_input_with_a_default_need_not_be_given(ct, tmp_path):
    inputs = [
        ct.TensorType("x", (2, 4), dtype=np.float32),
        ct.TensorType("y", (2, 4), dtype=np.float32, default_value=np.full((2, 4), 3, np.float32)),
    ]
    network = load(converted(ct, tmp_path / "m.mlpackage", inputs, [torch.zeros(2, 4)] * 2), precision="fp32")
    assert network.inputs["y"].default == 3
    x = example_inputs(2, 4)["x"]
    outputs, full = network.predict({"x": x}), network.predict({"x": x, "y": np.full((2, 4), 3, np.float32)})
    for name in outputs:
        np.testing.assert_array_equal(outputs[name], full[name])
    with pytest.raises(InputError, match="missing: x"):
        network.predict({})


def test_a_fixed_shape_is_the_only_one_accepted():
    feature = Feature("x", (2, 3), np.dtype(np.float32))
    assert feature.accepts((2, 3))
    assert not feature.accepts((3, 2))
    assert feature.accepted == "[2, 3]"
    with pytest.raises(InputError, match=r"x has shape \[3\]; \[2, 3\] is accepted"):
        check_inputs({"x": np.zeros(3, np.float32)}, {"x": feature})


def test_a_range_may_have_no_greatest_size():
    description = ml().ModelDescription()
    array = description.input.add(name="x").type.multiArrayType
    array.dataType = array.FLOAT32
    array.shapeRange.sizeRanges.add(lowerBound=2, upperBound=-1)
    feature = features(description.input)["x"]
    assert (feature.shape, feature.accepted) == ((2,), "[2 or more]")
    assert feature.accepts((70,))
    assert not feature.accepts((1,))


@pytest.mark.parametrize("kind", ["imageType", "dictionaryType", "stringType"])
def test_features_that_are_not_arrays_are_refused_by_name_and_type(kind):
    description = ml().ModelDescription()
    getattr(description.input.add(name="photo").type, kind).SetInParent()
    with pytest.raises(PackageError, match=f"photo is of {kind}; only multi-arrays are supported"):
        features(description.input)


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(2, 3))

    def forward(self, x):
        self.count.add_(x)
        return self.count * 2


def test_states_are_declared_apart_from_the_inputs(ct, tmp_path):
    inputs, states = [ct.TensorType("x", (2, 3))], [ct.StateType(ct.TensorType(shape=(2, 3)), name="count")]
    package = converted(
        ct, tmp_path / "m.mlpackage", inputs, torch.zeros(2, 3), Counter(), states=states, compute_precision=None
    )
    for path in both(package, tmp_path):
        program = read_program(path)
        assert list(program.inputs) == ["x"]
        assert program.states == {"count": Feature("count", (2, 3), np.dtype(np.float16))}
        taken = {name for op in program.operations for names in op.inputs.values() for name in names}
        assert "count" in taken


def test_every_function_of_a_package_is_named_and_runs(ct, tmp_path):
    for size in (2, 4):
        inputs = [ct.TensorType(n, (1, size), dtype=np.float32) for n in "xy"]
        converted(ct, tmp_path / f"{size}.mlpackage", inputs, [torch.zeros(1, size)] * 2)
    described = ct.utils.MultiFunctionDescriptor()
    for size in (2, 4):
        described.add_function(str(tmp_path / f"{size}.mlpackage"), "main", f"size_{size}")
    described.default_function_name = "size_2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ct.utils.save_multifunction(described, str(tmp_path / "m.mlpackage"))
    for path in both(tmp_path / "m.mlpackage", tmp_path):
        assert functions(path) == ("size_2", "size_4")
        for size in (2, 4):
            assert declared_features(path, f"size_{size}")[0]["x"].shape == (1, size)
            assert_runs(load(path, function=f"size_{size}", precision="fp32"), example_inputs(1, size))
        with pytest.raises(PackageError, match="has no function 'size_8'; it has size_2, size_4"):
            load(path, function="size_8")


def renamed_default(package, name):
    """The package with another default function, or none."""
    model = read_spec(package)
    model.description.defaultFunctionName = name
    (package / "Data/com.apple.CoreML/model.mlmodel").write_bytes(model.SerializeToString())
    return package


def test_without_a_name_the_default_function_of_a_package_runs(tmp_path):
    tables = {name: program_of([Operation("add", {"x": ONE, "y": ONE * number}, [ONE])])[0].mlProgram.functions["main"]
              for number, name in enumerate(("a", "b", "main"))}  # fmt: skip
    model = program_of([Operation("add", {"x": ONE, "y": ONE}, [ONE])])[0]
    model.mlProgram.functions.clear()
    for name, body in tables.items():
        model.mlProgram.functions[name].CopyFrom(body)
        added = model.description.functions.add(name=name)
        added.output.extend(model.description.output)
    package = write_model(tmp_path / "m.mlpackage", model)
    for default, expected in (("a", 1), ("b", 2), ("", 3)):
        renamed_default(package, default)
        for precision in PRECISIONS:
            assert load(str(package), precision=precision).predict({})["r0_0"] == expected
    with pytest.raises(PackageError, match="has no function 'c', its default; it has a, b, main"):
        load(renamed_default(package, "c"))
    model.mlProgram.functions.pop("main")
    (package / "Data/com.apple.CoreML/model.mlmodel").write_bytes(model.SerializeToString())
    with pytest.raises(PackageError, match="has no function 'main' and names no default; it has a, b"):
        load(package)
    model.mlProgram.functions.pop("a")
    (package / "Data/com.apple.CoreML/model.mlmodel").write_bytes(model.SerializeToString())
    assert load(package).predict({})["r0_0"] == 2
