"""Packages of coremltools run, and packages that cannot run are refused."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from converter.runtime import InputError, PackageError, UnsupportedOperator, load
from converter.runtime.mil import MILNetwork, OperationError
from converter.runtime.program import read_model


class Mixed(nn.Module):
    """A plain network of convolution, norms and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.out = nn.Linear(8, 5)

    def forward(self, x):
        h = nn.functional.silu(self.norm(self.conv(x)))
        s = h.flatten(2).transpose(1, 2)
        s = s + nn.functional.scaled_dot_product_attention(self.query(s), self.key(s), self.value(s))
        return self.out(nn.functional.layer_norm(s, (8,)))


@pytest.mark.parametrize("target", ["macOS12", "macOS13", "macOS14", "macOS15"])
def test_a_package_made_by_coremltools_runs_as_its_pytorch_original(ct, tmp_path, target):
    torch.manual_seed(0)
    module, x = Mixed().eval(), torch.randn(1, 4, 6, 6)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = ct.convert(
            torch.jit.trace(module, x),
            inputs=[ct.TensorType("x", x.shape)],
            outputs=[ct.TensorType("y")],
            minimum_deployment_target=ct.target[target],
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
        model.save(str(tmp_path / "m.mlpackage"))
        expected = module(x).numpy()
    output = load(tmp_path / "m.mlpackage").predict({"x": x.numpy()})["y"]
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def unet(model_folder):
    return model_folder.package("unet", 64, 64)


def example_inputs():
    return {
        "sample": np.zeros((2, 4, 8, 8), np.float16),
        "timestep": np.zeros(2, np.float16),
        "encoder_hidden_states": np.zeros((2, 32, 1, 77), np.float16),
    }


def test_features_are_those_the_package_declares(unet):
    network = load(unet)
    assert network.inputs["sample"].shape == (2, 4, 8, 8)
    assert network.inputs["sample"].dtype == np.float16
    assert list(network.outputs) == ["noise_pred"]
    out = network.predict(example_inputs())["noise_pred"]
    assert (out.shape, out.dtype) == ((2, 4, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda i: i.pop("timestep"), "missing: timestep"),
        (lambda i: i.update(extra=np.zeros(1)), "unknown: extra"),
        (
            lambda i: i.update(sample=np.zeros((2, 4, 8, 9), np.float16)),
            r"sample has shape \[2, 4, 8, 9\]; \[2, 4, 8, 8\]",
        ),
        (lambda i: i.update(timestep=np.zeros(2, np.int32)), "timestep is int32; float16 is accepted"),
        (lambda i: i.update(timestep=[1, 2]), "timestep is a list"),
    ],
)
def test_a_wrong_input_is_refused_by_name(unet, change, words):
    inputs = example_inputs()
    change(inputs)
    with pytest.raises(InputError, match=words):
        load(unet).predict(inputs)


def test_wider_floats_are_rounded_to_the_declared_type(unet):
    network, rng = load(unet), np.random.default_rng(0)
    wide = {name: rng.standard_normal(a.shape) for name, a in example_inputs().items()}
    narrow = {name: a.astype(np.float16) for name, a in wide.items()}
    np.testing.assert_array_equal(network.predict(wide)["noise_pred"], network.predict(narrow)["noise_pred"])


def test_a_tensor_is_freed_after_its_last_use(unet):
    network = MILNetwork(unet)
    live: set[str] = set()
    most = 0
    for step in network._steps:
        live |= set(step.outputs)
        most = max(most, len(live))
        live -= set(step.freed)
    assert live == set(network.outputs)
    assert most < len(network._steps) / 5


def rewritten(unet, folder, change):
    shutil.copytree(unet, folder)
    model = read_model(folder)
    change(model.mlProgram.functions["main"].block_specializations["CoreML6"])
    (folder / "Data/com.apple.CoreML/model.mlmodel").write_bytes(model.SerializeToString())
    return folder


def test_an_operator_that_is_missing_is_named_when_the_package_is_loaded(unet, tmp_path):
    def change(block):
        for op in block.operations:
            if op.type == "softmax":
                op.type = "lstm"

    with pytest.raises(UnsupportedOperator, match=r"lstm \(\d+ times, first at "):
        load(rewritten(unet, tmp_path / "m.mlpackage", change))


def test_an_operation_that_fails_is_named_with_its_arguments(unet, tmp_path):
    def change(block):
        conv = next(op for op in block.operations if op.type == "conv")
        conv.inputs["x"].arguments[0].name = "encoder_hidden_states"

    network = MILNetwork(rewritten(unet, tmp_path / "m.mlpackage", change))
    words = r"^conv \w+ of .*weight float32\[\d+, \d+, 1, 1\]; .*x float32\[2, 32, 1, 77\]: .*channels"
    with pytest.raises(OperationError, match=words):
        network.predict(example_inputs())


def test_a_weight_at_a_wrong_offset_is_refused_at_load(unet, tmp_path):
    def change(block):
        for op in block.operations:
            value = op.attributes["val"]
            if op.type == "const" and value.WhichOneof("value") == "blobFileValue":
                value.blobFileValue.offset += 64
                return

    with pytest.raises(PackageError, match="no blob record"):
        load(rewritten(unet, tmp_path / "m.mlpackage", change))


def test_a_package_without_its_weights_or_its_model_is_refused(unet, tmp_path):
    shutil.copytree(unet, tmp_path / "a.mlpackage")
    (tmp_path / "a.mlpackage/Data/com.apple.CoreML/weights/weight.bin").unlink()
    with pytest.raises(PackageError, match="lost its weights"):
        load(tmp_path / "a.mlpackage")
    with pytest.raises(PackageError, match="does not exist"):
        load(tmp_path / "nothing.mlpackage")
    with pytest.raises(PackageError, match="has no function 'other'; it has main"):
        load(unet, function="other")


def test_unknown_compute_units_are_refused(unet):
    with pytest.raises(ValueError, match="CPU_AND_NE, ALL, CPU_AND_GPU, CPU_ONLY"):
        load(unet, compute_units="TPU")


def test_weights_are_read_as_coremltools_reads_them(unet):
    from coremltools.libmilstoragepython import _BlobStorageReader

    from converter.weights.blob import BlobReader

    path = unet / "Data/com.apple.CoreML/weights/weight.bin"
    theirs, ours = _BlobStorageReader(str(path)), BlobReader(path)
    compared = 0
    for op in read_model(unet).mlProgram.functions["main"].block_specializations["CoreML6"].operations:
        value = op.attributes["val"]
        if op.type != "const" or value.WhichOneof("value") != "blobFileValue":
            continue
        shape = tuple(d.constant.size for d in value.type.tensorType.dimensions)
        half = value.type.tensorType.dataType == 10
        offset = value.blobFileValue.offset
        weight = ours.read(offset, np.dtype(np.float16 if half else np.float32), shape)
        expected = np.asarray(theirs.read_fp16_data(offset) if half else theirs.read_float_data(offset))
        np.testing.assert_array_equal(weight.reshape(-1), expected.view(weight.dtype))
        compared += 1
    assert compared > 50
