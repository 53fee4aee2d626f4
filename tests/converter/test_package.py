"""Packages as coremltools sees them: it must load what we write, and spell operations as we do."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from converter.mlproto import ml
from converter.runtime.program import read_model

NETWORKS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


@pytest.fixture(scope="module")
def ct():
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools

        yield coremltools


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
    found = {
        f.name: (tuple(f.type.multiArrayType.shape), f.type.multiArrayType.dataType) for f in model.description.input
    }
    half, single = 65552, 65568
    assert array is None or half == array.FLOAT16
    assert found == {
        "sample": ((2, 4, 8, 8), half),
        "timestep": ((2,), half),
        "encoder_hidden_states": ((2, 32, 1, 77), half),
    }
    (out,) = model.description.output
    assert (out.name, out.type.multiArrayType.dataType) == ("noise_pred", single)


class Everything(nn.Module):
    """One of each operation we emit, in the forms the networks use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.GroupNorm(4, 16)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 1.5)
            self.norm.bias.uniform_(-1, 1)
        self.point, self.layer_norm, self.words = nn.Conv2d(16, 16, 1), nn.LayerNorm(16), nn.Embedding(50, 16)

    def forward(self, x, ids):
        h = nn.functional.silu(self.norm(self.conv(x)))
        h = nn.functional.interpolate(h, scale_factor=2.0, mode="nearest")
        padded = nn.functional.pad(h, (0, 1, 0, 1))
        s = self.point(h.reshape(2, 16, 1, 256))
        left, right = s.chunk(2, dim=1)
        gated = left * nn.functional.gelu(right)
        keys = s.transpose(1, 3)
        share = torch.einsum("bchq,bkhc->bkhq", s[:, :8], keys[..., :8]).softmax(1)
        mixed = torch.einsum("bkhq,bchk->bchq", share, s[:, :8])
        words = self.layer_norm(self.words(ids.int()))
        pooled = words[torch.arange(1), ids.int().argmax(-1)]
        return padded, gated, torch.cat([mixed, mixed], 1), words * torch.sigmoid(1.702 * words), pooled


def spelling(operations):
    """Operation -> the set of its parameter names, over a program."""
    found: dict[str, set[frozenset[str]]] = {}
    for op in operations:
        if op.type != "const":
            found.setdefault(op.type, set()).add(frozenset(op.inputs))
    return found


def test_operations_carry_the_parameters_that_coremltools_gives_them(ct, model_folder):
    module = Everything().eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, (torch.randn(2, 8, 16, 16), torch.randint(0, 50, (1, 7)).float()))
        golden = ct.convert(
            traced,
            inputs=[
                ct.TensorType("x", (2, 8, 16, 16), dtype=np.float16),
                ct.TensorType("ids", (1, 7), dtype=np.float32),
            ],
            minimum_deployment_target=ct.target.macOS13,
            skip_model_load=True,
        ).get_spec()
    theirs = spelling(golden.mlProgram.functions["main"].block_specializations["CoreML6"].operations)
    shared = set()
    for network in NETWORKS:
        model = read_model(package(model_folder, network))
        for kind, ours in spelling(
            model.mlProgram.functions["main"].block_specializations["CoreML6"].operations
        ).items():
            if kind in theirs:
                shared.add(kind)
                optional = {"bias"}
                assert {frozenset(o - optional) for o in ours} <= {frozenset(t - optional) for t in theirs[kind]}, kind
    assert shared >= {
        *("conv", "reshape", "reduce_mean", "sub", "square", "add", "sqrt", "real_div", "batch_norm", "silu", "gelu"),
        *("upsample_nearest_neighbor", "pad", "split", "mul", "transpose", "slice_by_index", "einsum", "softmax"),
        *("concat", "cast", "gather", "layer_norm", "sigmoid", "reduce_argmax", "stack", "gather_nd"),
    }


def test_no_mask_holds_an_infinity(model_folder):
    from converter.runtime.program import read_program

    for network in NETWORKS:
        for op in read_program(package(model_folder, network)).operations:
            for values in op.constants.values():
                for value in values:
                    if not isinstance(value, str) and value.dtype.kind == "f":
                        assert np.isfinite(value).all(), (network, op.kind, op.outputs)
