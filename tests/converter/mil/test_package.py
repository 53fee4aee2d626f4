"""Packages as coremltools sees them: it must load what we write, and spell operations as we do."""

from __future__ import annotations

import errno
import os
import warnings

import numpy as np
import pytest

from converter.mil import FP16, INT32, MACOS13, MACOS14, MACOS15, Graph, TargetError
from converter.mil.mlproto import ml
from converter.mil.package import WEIGHTS, copy_package, write_functions, write_package
from converter.runtime import PackageError
from converter.runtime.program import read_model
from tests.support.mil_packages import METADATA, as_written
from tests.support.tiny_networks import TinyNetworks

NETWORKS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


def package(model_folder, network):
    return model_folder.package(network, *(() if network == "text_encoder" else (64, 64)))


@pytest.mark.parametrize("network", NETWORKS)
def test_coremltools_loads_the_program_and_infers_the_types_we_wrote(ct, model_folder, network):
    from coremltools.converters.mil.frontend.milproto.load import load

    path = package(model_folder, network)
    spec = ct.utils.load_spec(str(path))
    program = load(spec, spec.specificationVersion, str(path / "Data/com.apple.CoreML/weights"))
    written = read_model(path).mlProgram.functions["main"].block_specializations["CoreML6"].operations
    shapes = {
        o.name: tuple(d.constant.size for d in o.type.tensorType.dimensions) for op in written for o in op.outputs
    }
    checked = 0
    for op in program.functions["main"].operations:
        for out in op.outputs:
            if op.op_type != "const":
                assert tuple(out.shape) == shapes[out.name], (op.op_type, out.name)
                checked += 1
    assert checked > 50
    assert (
        ct.models.MLModel(str(path), skip_model_load=True)
        .get_spec()
        .description.metadata.userDefined["app.anemone.network"]
        == network
    )


def test_inputs_and_outputs_are_those_of_apples_packages(model_folder):
    model = read_model(package(model_folder, "unet"))
    array = ml().ArrayFeatureType if hasattr(ml(), "ArrayFeatureType") else None
    assert model.specificationVersion == 7
    features = {
        f.name: (tuple(f.type.multiArrayType.shape), f.type.multiArrayType.dataType) for f in model.description.input
    }
    half, single = 65552, 65568
    assert array is None or half == array.FLOAT16
    assert features == {
        "sample": ((2, 4, 8, 8), half),
        "timestep": ((2,), half),
        "encoder_hidden_states": ((2, 32, 1, 77), half),
    }
    (out,) = model.description.output
    assert (out.name, out.type.multiArrayType.dataType) == ("noise_pred", single)


def test_no_mask_has_an_infinity(model_folder):
    from converter.runtime.program import read_program

    for network in NETWORKS:
        for op in read_program(package(model_folder, network)).operations:
            for values in op.constants.values():
                for value in values:
                    if not isinstance(value, str) and value.dtype.kind == "f":
                        assert np.isfinite(value).all(), (network, op.kind, op.outputs)


SIZES = {"size_72x64": (8, 9), "size_64x64": (8, 8)}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return TinyNetworks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def functions(networks, tmp_path_factory):
    """The autoencoder's encoder at two sizes as one package."""
    return networks.functions("vae_encoder", MACOS15, tmp_path_factory.mktemp("functions") / "vae", SIZES)


@pytest.fixture(scope="module")
def singles(networks, tmp_path_factory):
    """The same network as a package for each size."""
    out = tmp_path_factory.mktemp("singles")
    return {name: networks.package("vae_encoder", MACOS15, out / name, *size) for name, size in SIZES.items()}


def test_every_function_of_a_package_predicts_what_a_package_of_its_own_predicts(functions, singles):
    rng = np.random.default_rng(0)
    for name, (height, width) in SIZES.items():
        network = as_written(functions, function=name)
        assert network.inputs["x"].shape == (1, 3, 8 * height, 8 * width)
        assert network.outputs["latent"].shape == (1, 8, height, width)
        inputs = {n: rng.standard_normal(f.shape).astype(f.dtype) for n, f in network.inputs.items()}
        latent, expected = (net.predict(inputs)["latent"] for net in (network, as_written(singles[name])))
        assert np.abs(latent).max() > 0.01
        np.testing.assert_array_equal(latent, expected)


def test_functions_share_one_weights_file(functions, singles):
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    assert (functions / weights).read_bytes() == (singles["size_72x64"] / weights).read_bytes()


def test_a_package_of_several_functions_says_which_it_has(functions):
    with pytest.raises(PackageError, match="no function 'main'; it has size_64x64, size_72x64"):
        as_written(functions)


def operations(function):
    (block,) = function.block_specializations.values()
    return [
        (op.type, {k: [a.name for a in v.arguments] for k, v in op.inputs.items()}, [str(o) for o in op.outputs])
        for op in block.operations
        if op.type != "const"
    ]


def offsets(function):
    """Where the weights lie that a function's constants name, in the constants' order."""
    (block,) = function.block_specializations.values()
    values = [op.attributes["val"] for op in block.operations if op.type == "const"]
    return [v.blobFileValue.offset for v in values if v.WhichOneof("value") == "blobFileValue"]


@pytest.mark.slow
def test_several_functions_are_written_as_coremltools_writes_them(ct, functions, singles, tmp_path):
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, path in singles.items():
        descriptor.add_function(str(path), "main", name)
    descriptor.default_function_name = "size_72x64"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ct.utils.save_multifunction(descriptor, str(tmp_path / "golden.mlpackage"))
    golden, ours = read_model(tmp_path / "golden.mlpackage"), read_model(functions)
    assert ours.specificationVersion == golden.specificationVersion == 9
    assert ours.description.defaultFunctionName == golden.description.defaultFunctionName
    # coremltools writes no metadata here; MLModel's setters put it where ours is.
    ours.description.ClearField("metadata")
    golden.description.ClearField("metadata")
    assert ours.description == golden.description
    assert not ours.description.input
    assert not ours.description.output
    assert set(ours.mlProgram.functions) == set(golden.mlProgram.functions) == set(SIZES)
    for name, theirs in golden.mlProgram.functions.items():
        function = ours.mlProgram.functions[name]
        assert (function.opset, list(function.inputs)) == (theirs.opset, list(theirs.inputs))
        assert list(function.block_specializations) == list(theirs.block_specializations)
        assert [op[0] for op in operations(function)] == [op[0] for op in operations(theirs)]
        assert [op[2] for op in operations(function)] == [op[2] for op in operations(theirs)]
        assert [set(op[1]) for op in operations(function)] == [set(op[1]) for op in operations(theirs)]
    for model in (ours, golden):
        first, second = (set(offsets(f)) for f in model.mlProgram.functions.values())
        assert first == second


def test_coremltools_splits_a_package_of_several_functions(ct, functions, singles, tmp_path):
    from coremltools.converters.mil.frontend.milproto.load import load as load_program

    spec = ct.utils.load_spec(str(functions))
    program = load_program(spec, 9, str(functions / "Data/com.apple.CoreML/weights"))
    assert set(program.functions) == set(SIZES)
    assert ct.models.MLModel(str(functions), skip_model_load=True).function_name == "size_72x64"
    opened = ct.models.MLModel(str(functions), skip_model_load=True, function_name="size_64x64")
    assert (opened.function_name, opened.short_description) == ("size_64x64", "test")
    with pytest.raises(ValueError, match="size_1x1 not found"):
        ct.models.MLModel(str(functions), skip_model_load=True, function_name="size_1x1")

    descriptor = ct.utils.MultiFunctionDescriptor(str(functions))
    descriptor.remove_function("size_64x64")
    descriptor.default_function_name = "size_72x64"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ct.utils.save_multifunction(descriptor, str(tmp_path / "one.mlpackage"))
    network, rng = as_written(tmp_path / "one.mlpackage", function="size_72x64"), np.random.default_rng(1)
    inputs = {n: rng.standard_normal(f.shape).astype(f.dtype) for n, f in network.inputs.items()}
    expected = as_written(singles["size_72x64"]).predict(inputs)["latent"]
    np.testing.assert_array_equal(network.predict(inputs)["latent"], expected)


def test_the_same_functions_give_the_same_bytes(networks, functions, tmp_path):
    again = networks.functions("vae_encoder", MACOS15, tmp_path / "again", SIZES)
    names = [p.relative_to(functions) for p in functions.rglob("*") if p.is_file()]
    assert len(names) == 3
    for name in names:
        assert (again / name).read_bytes() == (functions / name).read_bytes(), name


@pytest.mark.parametrize("target", [MACOS13, MACOS14])
def test_several_functions_before_macos_15_are_refused(networks, tmp_path, target):
    wanted = f"several functions needs macOS 15 .function size_72x64 is for {target.name}.*size_72x64, size_64x64"
    with pytest.raises(TargetError, match=wanted):
        networks.functions("vae_decoder", target, tmp_path / "out", SIZES)
    assert not (tmp_path / "out" / "network.mlpackage").exists()


def identity(weights, target=MACOS15, dtype=FP16):
    graph = Graph(weights, target)
    graph.output(graph.input("x", (1, 3), dtype), "y")
    return graph


@pytest.mark.parametrize(
    ("names", "default", "wanted"),
    [
        (["512x768"], "512x768", "'512x768' cannot name a function"),
        (["tensor"], "tensor", "'tensor' cannot name a function"),
        (["a", "b"], "main", "the default function 'main' is not one of the functions: a, b"),
        ([], "main", "is not one of the functions: none"),
    ],
)
def test_functions_that_core_ml_does_not_accept_are_refused(networks, tmp_path, names, default, wanted):
    with networks.weights(tmp_path / "weights") as weights:
        graphs = {name: identity(weights) for name in names}
    with pytest.raises(ValueError, match=wanted):
        write_functions(
            tmp_path / "out.mlpackage",
            graphs,
            tmp_path / "weights",
            default=default,
            about="test",
            describe=str.title,
            metadata=METADATA,
        )
    assert not (tmp_path / "out.mlpackage").exists()


def test_functions_of_different_weights_files_are_refused(networks, tmp_path):
    with networks.weights(tmp_path / "weights") as first, networks.weights(tmp_path / "other") as second:
        graphs = {"a": identity(first), "b": identity(second)}
    with pytest.raises(ValueError, match="functions b and a must have the same target and the same weights file"):
        write_functions(
            tmp_path / "out.mlpackage",
            graphs,
            tmp_path / "weights",
            default="a",
            about="test",
            describe=str.title,
            metadata=METADATA,
        )


def test_an_integer_input_is_described_as_one(networks, tmp_path):
    with networks.weights(tmp_path / "weights") as weights:
        graph = identity(weights, MACOS13, INT32)
    path = tmp_path / "out.mlpackage"
    write_package(path, graph, tmp_path / "weights", about="test", describe=str.title, metadata=METADATA)
    output = as_written(path).predict({"x": np.array([[1, 2, 3]], np.int32)})["y"]
    assert (output.dtype, output.tolist()) == (np.float32, [[1, 2, 3]])


def test_a_package_is_copied_whole_and_weights_are_linked(model_folder, tmp_path):
    source = package(model_folder, "unet")
    copy_package(source, tmp_path / "new" / "copy.mlpackage")
    files = {path.relative_to(source) for path in source.rglob("*")}
    assert files == {
        path.relative_to(tmp_path / "new/copy.mlpackage") for path in tmp_path.rglob("copy.mlpackage/**/*")
    }
    assert (tmp_path / "new/copy.mlpackage" / WEIGHTS).samefile(source / WEIGHTS)


def test_a_copy_that_fails_ends_with_the_first_files_own_error(model_folder, tmp_path):
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    with pytest.raises(OSError, match=r"No space left on device: .*copy") as failed:
        copy_package(package(model_folder, "unet"), tmp_path / "copy", full)
    assert failed.value.errno == errno.ENOSPC
