from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lycoris.modules.full import FullModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule

from converter.loras import LoraFile
from tests.support import lora_files

_TARGET = "down_blocks_0_resnets_0_conv1"
_LAYERS = {
    "linear": lambda: torch.nn.Linear(24, 16),
    "1x1": lambda: torch.nn.Conv2d(24, 16, 1),
    "3x3": lambda: torch.nn.Conv2d(24, 16, 3),
}
_TUCKER, _DORA, _BY_INPUT = (
    {"use_tucker": True},
    {"weight_decompose": True},
    {"weight_decompose": True, "wd_on_out": False},
)
_WHOLE, _BOTH = {"full_matrix": True}, {"decompose_both": True, "factor": 4}


def _random(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module with random factors, and a magnitude of about the weight's (LyCORIS starts with changes of zero)."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "org_module" not in name:
                parameter.copy_(parameter * 1.3 if name == "dora_scale" else torch.randn_like(parameter) / 2)
    return module


def _named(module: torch.nn.Module) -> lora_files.Tensors:
    return {f"lora_unet_{_TARGET}.{name}": tensor for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(
    ("kind", "layer", "words"),
    [
        *((LoConModule, layer, {"rs_lora": rs}) for layer in _LAYERS for rs in (False, True)),
        (LoConModule, "3x3", _TUCKER),
        *((kind, layer, {}) for kind in (LohaModule, LokrModule) for layer in _LAYERS),
        *((kind, "3x3", _TUCKER) for kind in (LohaModule, LokrModule)),
        *((LokrModule, layer, words) for layer in ("linear", "3x3") for words in (_WHOLE, _BOTH, _BOTH | _TUCKER)),
        *(
            (kind, layer, words)
            for kind in (LoConModule, LohaModule, LokrModule)
            for layer in ("linear", "3x3")
            for words in (_DORA, _BY_INPUT)
        ),
    ],
)
def test_a_layer_is_merged_as_lycoris_merges_it(
    tmp_path: Path, kind: type[Any], layer: str, words: dict[str, Any]
) -> None:
    # get_merged_weight of 4.1.3 multiplies LoHa's and LoKr's changes by alpha / rank twice; what was trained is forward.
    torch.manual_seed(3)
    original = _LAYERS[layer]()
    multiplier = 1.0 if "weight_decompose" in words else 0.6
    module = _random(kind("x", original, multiplier, lora_dim=3, alpha=2, **words))
    file = LoraFile.open(lora_files.write(tmp_path / "one.safetensors", _named(module)))
    merged = file.layers["unet"][_TARGET].merged(original.weight.detach().numpy(), multiplier)

    x = torch.randn(2, 24) if layer == "linear" else torch.randn(2, 24, 5, 5)
    forward = torch.nn.functional.linear if layer == "linear" else torch.nn.functional.conv2d
    with torch.no_grad():
        unchanged = original(x)
        ours = forward(x, torch.from_numpy(merged), original.bias)
        module.apply_to()
        trained = original(x)
    assert (trained - unchanged).abs().max() > 0.1
    torch.testing.assert_close(ours, trained, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "names", "make"),
    [
        (NormModule, ("w_norm", "b_norm"), lambda: torch.nn.GroupNorm(4, 16)),
        (FullModule, ("diff", "diff_b"), _LAYERS["linear"]),
        (FullModule, ("diff", "diff_b"), _LAYERS["3x3"]),
    ],
)
def test_a_weight_and_its_bias_are_changed_as_lycoris_changes_them(
    tmp_path: Path, kind: type[Any], names: tuple[str, str], make: Callable[[], torch.nn.Module]
) -> None:
    original = make()
    changes = lora_files.random(*original.weight.shape), lora_files.random(16)
    with torch.no_grad():
        expected = kind.make_module_from_state_dict("x", original, *changes).get_merged_weight(0.5)
    tensors = {f"lora_unet_{_TARGET}.{name}": change for name, change in zip(names, changes, strict=True)}
    file = LoraFile.open(lora_files.write(tmp_path / "whole.safetensors", tensors))
    before = original.weight.detach().numpy(), original.bias.detach().numpy()
    for layers, parameter, after in zip((file.layers, file.biases), before, expected, strict=True):
        merged = layers["unet"][_TARGET].merged(parameter, 0.5)
        np.testing.assert_allclose(merged, after.detach(), rtol=1e-6, atol=1e-6)
        assert np.abs(merged - parameter).max() > 1e-2


def test_a_multiplier_of_a_dora_goes_part_of_the_way_to_the_trained_weight(tmp_path: Path) -> None:
    original = _LAYERS["3x3"]()
    module = _random(LoConModule("x", original, lora_dim=3, alpha=2, **_DORA))
    layer = LoraFile.open(lora_files.write(tmp_path / "dora.safetensors", _named(module))).layers["unet"][_TARGET]
    before = original.weight.detach().numpy()
    whole, part = layer.merged(before, 1), layer.merged(before, 0.25)
    np.testing.assert_allclose(part, before + (whole - before) / 4, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layer.merged(before, 0), before)
    assert layer.kind == "DoRA of LoCon"
