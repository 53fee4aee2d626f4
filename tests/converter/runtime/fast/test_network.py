"""The fast engine: fused operations, and results near the reference."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
import torch

import converter.runtime.fast.network as network_module
from converter.mil import MACOS13, MACOS15
from converter.runtime import load
from converter.runtime.fast.kernels import kernels
from converter.runtime.fast.network import FastNetwork, compile_fast
from converter.runtime.mil import MILNetwork
from tests.support.mil_packages import psnr
from tests.support.mil_programs import package_program
from tests.support.tiny_networks import NETWORKS, TinyNetworks

#: Attention and norms as programs write them; none of it is to be left.
_SPELLED_OUT = {"softmax", "einsum", "matmul", "reduce_mean", "square", "sqrt", "real_div", "batch_norm", "layer_norm"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return TinyNetworks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def packages(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    return {name: tiny.package(name, MACOS13, folder / name.replace(" ", "_"), 16, 24) for name in NETWORKS}


def inputs_of(network, seed=0):
    drawn = np.random.default_rng(seed)
    return {
        name: drawn.standard_normal(f.shape).astype(f.dtype)
        if f.dtype.kind == "f"
        else drawn.integers(0, 99, f.shape, f.dtype)
        for name, f in network.inputs.items()
    }


def kinds(network: FastNetwork) -> Counter[str]:
    (steps,) = network._compiled.values()
    return Counter(step.node.kind for step in steps)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_kernels_a_network_is_fused_and_still_the_reference(packages, name, monkeypatch):
    monkeypatch.setattr(network_module, "kernels", lambda: None)
    reference, network = MILNetwork(packages[name]), FastNetwork(packages[name])
    inputs = inputs_of(reference)
    expected, actual = reference.predict(inputs), network.predict(inputs)
    assert set(actual) == set(expected)
    for output, array in expected.items():
        np.testing.assert_allclose(actual[output], array, rtol=1e-3, atol=1e-4 * max(1e-6, np.abs(array).max()))


@pytest.fixture(params=["vnni", "portable"])
def in_eight_bits(request, monkeypatch):
    """Have networks compiled for either build of the kernels."""
    if kernels(request.param) is None:
        pytest.skip(f"no {request.param} kernels for this machine")
    monkeypatch.setattr(network_module, "kernels", lambda: kernels(request.param))


@pytest.mark.usefixtures("in_eight_bits")
@pytest.mark.parametrize("name", NETWORKS)
def test_eight_bits_stay_near_the_reference(packages, name):
    reference, network = MILNetwork(packages[name]), FastNetwork(packages[name])
    inputs = inputs_of(reference)
    expected, actual = reference.predict(inputs), network.predict(inputs)
    for output, array in expected.items():
        if array.any():  # a ControlNet begins by adding nothing
            assert psnr(actual[output], array) > 45


@pytest.mark.parametrize("name", [n for n in NETWORKS if "text" not in n and n != "unet_prompt"])
def test_norms_and_attention_are_fused_completely(packages, name):
    assert not _SPELLED_OUT & set(kinds(FastNetwork(packages[name])))


@pytest.mark.usefixtures("in_eight_bits")
def test_wide_layers_are_in_eight_bits_and_the_networks_ends_are_not(packages):
    (steps,) = FastNetwork(packages["unet for a GPU"])._compiled.values()
    layers = {s.node.output: s.node for s in steps if s.node.kind == "layer"}
    rounded = {name for name, node in layers.items() if node.options.get("rounded")}
    assert len(rounded) > 60
    for name, node in layers.items():
        narrow = min(node.constants["weight"][0].shape[:2]) < 32
        assert not (narrow and name in rounded), name
    shortcuts = {name for name in layers if "shortcut" in name}
    assert len(shortcuts) > 3
    assert not shortcuts & rounded


@pytest.mark.usefixtures("in_eight_bits")
def test_a_text_encoder_is_not_rounded(packages):
    for name in ("text_encoder", "text_encoder_2"):
        (steps,) = FastNetwork(packages[name])._compiled.values()
        assert not any(s.node.options.get("rounded") for s in steps)


def test_the_second_prediction_is_the_first_again(packages):
    network = FastNetwork(packages["unet"])
    inputs = inputs_of(network)
    one, two = network.predict(inputs)["noise_pred"], network.predict(inputs)["noise_pred"]
    assert np.array_equal(one, two)


def test_load_compiles_by_default(packages):
    assert isinstance(load(packages["unet"]), FastNetwork)
    assert isinstance(load(packages["unet"], precision="fp32"), MILNetwork)
    with pytest.raises(ValueError, match="precision is 'bf16'; accepted: fast, fp32, fp16, ane"):
        load(packages["unet"], precision="bf16")


def test_every_function_of_a_package_can_be_compiled(tiny, tmp_path):
    path = tiny.functions("unet", MACOS15, tmp_path / "f", {"small": (8, 8), "wide": (8, 16)})
    for function, size in (("small", (8, 8)), ("wide", (8, 16))):
        network, reference = FastNetwork(path, function), MILNetwork(path, function)
        inputs = inputs_of(reference)
        assert inputs["sample"].shape[2:] == size
        actual, expected = network.predict(inputs)["noise_pred"], reference.predict(inputs)["noise_pred"]
        assert psnr(actual, expected) > 45


class Block(torch.nn.Module):
    """A residual block and an attention as diffusers has them, wide enough for eight bits."""

    def __init__(self) -> None:
        super().__init__()
        n = torch.nn
        self.norm, self.conv = n.GroupNorm(8, 64), n.Conv2d(64, 64, 3, padding=1)
        self.layer_norm = n.LayerNorm(64)
        self.q, self.k, self.v, self.out = (n.Linear(64, 64, bias=i == 3) for i in range(4))
        self.up, self.down = n.Linear(64, 256), n.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        f = torch.nn.functional
        x = x + self.conv(f.silu(self.norm(x)))
        s = x.flatten(2).transpose(1, 2)
        h = self.layer_norm(s)
        split = [part(h).view(h.shape[0], -1, 4, 16).transpose(1, 2) for part in (self.q, self.k, self.v)]
        s = s + self.out(f.scaled_dot_product_attention(*split).transpose(1, 2).reshape(h.shape))
        kept, gate = self.up(self.layer_norm(s)).chunk(2, -1)
        s = s + self.down(kept * f.gelu(gate))
        return s.transpose(1, 2).reshape(x.shape)


# One opset is enough for shapes.
@pytest.mark.parametrize(("target", "flexible"), [("macOS13", False), ("macOS13", True), ("macOS15", False)])
def test_a_block_by_ct_convert_is_fused_at_every_size_it_takes(tmp_path, target, flexible):
    torch.manual_seed(0)
    module, x = Block().eval(), torch.randn(1, 64, 8, 8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        import coremltools as ct

        shape = ct.EnumeratedShapes([(1, 64, 8, 8), (1, 64, 8, 12)], default=(1, 64, 8, 8)) if flexible else x.shape
        model = ct.convert(
            torch.jit.trace(module, x),
            inputs=[ct.TensorType("x", shape)],
            outputs=[ct.TensorType("y")],
            minimum_deployment_target=ct.target[target],
            skip_model_load=True,
        )
        model.save(str(tmp_path / "m.mlpackage"))
    network = FastNetwork(tmp_path / "m.mlpackage")
    for size in ((8, 8), (8, 12)) if flexible else ((8, 8),):
        x = torch.randn(1, 64, *size)
        with torch.no_grad():
            expected = module(x).numpy()
        assert psnr(network.predict({"x": x.numpy()})["y"], expected) > 40
    for steps in network._compiled.values():
        left = Counter(step.node.kind for step in steps)
        assert not _SPELLED_OUT & set(left), left
        assert left["attention"] == 1
        assert left["layer"] == 7


def test_a_program_whose_shapes_depend_on_values_runs_operation_by_operation(tmp_path):
    x = np.float32([0, 2, 0, 3])
    path = package_program(tmp_path, "iOS16", {"x": x}, lambda mb, x: [mb.non_zero(x=x)])
    network = compile_fast(path)
    assert isinstance(network, MILNetwork)
    (actual,) = network.predict({"x": x}).values()
    assert actual.reshape(-1).tolist() == [1, 3]
