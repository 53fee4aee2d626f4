from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict

from converter.loras import LoraFile
from tests.support import lora_files
from tests.support.single_files import tiny

# PEFT 0.21.2 asks transformers by a name that 5.23 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

_MODULES = ["attn1.to_q", "attn2.to_out.0", "proj_in", "conv1"]
_PATTERNS = {"alpha_pattern": {"attn1.to_q": 2}, "rank_pattern": {"attn1.to_q": 5}}


def _random(module: torch.nn.Module) -> None:
    torch.manual_seed(11)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if any(word in name for word in ("lora_A", "lora_B", "hada_", "lokr_")):
                parameter.copy_(torch.randn_like(parameter) / 4)
            elif "magnitude" in name:
                parameter.mul_(1.25)


def _merged_into(module: torch.nn.Module, file: LoraFile, network: str, before: dict[str, np.ndarray]) -> None:
    """Compare a file's layers with the weights of a network into which PEFT has merged it."""
    after = lora_files.weights_of(module)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed
    for kind, layers in (("weight", file.layers), ("bias", file.biases)):
        for target, layer in layers.get(network, {}).items():
            name = (
                f"{target}_{kind}" if f"{target}_{kind}" in before else f"{target.removeprefix('text_model_')}_{kind}"
            )
            merged = layer.merged(before[name], 1.0)
            np.testing.assert_allclose(merged, after[name], rtol=1e-5, atol=1e-5, err_msg=name)
            changed.discard(name)
    assert not changed


# PEFT takes a bias for a factor that was not gathered from several machines.
@pytest.mark.filterwarnings("ignore:Adapter 'default':peft.utils.warning.PeftWarning")
@pytest.mark.parametrize(
    "words",
    [
        {"lora_alpha": 6},
        {"lora_alpha": 6, "use_rslora": True},
        {"lora_alpha": 6, "use_dora": True},
        {"lora_alpha": 3, "lora_bias": True},
    ],
)
def test_what_diffusers_saves_is_merged_as_peft_merges_it(tmp_path: Path, words: dict[str, Any]) -> None:
    modules = {name: copy.deepcopy(module) for name, module in tiny("sdxl")[0].items() if name != "vae"}
    before = {name: lora_files.weights_of(module) for name, module in modules.items()}
    states, metadata = {}, {}
    for name, module in modules.items():
        places: dict[str, Any] = {"target_modules": ["q_proj", "fc1"]}
        if name == "unet":
            # What has no bias cannot have one merged.
            places = (
                {"target_modules": _MODULES[1:]} if "lora_bias" in words else {"target_modules": _MODULES, **_PATTERNS}
            )
        config = LoraConfig(r=3, **places, **words)
        module.add_adapter(config)
        _random(module)
        states[f"{name}_lora_layers"] = get_peft_model_state_dict(module)
        metadata[f"{name}_lora_adapter_metadata"] = config.to_dict()
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, **states, **metadata, weight_name="style.safetensors")
    file = LoraFile.open(tmp_path / "style.safetensors")
    assert file.notes == ()
    for name, module in modules.items():
        for layer in module.modules():
            if hasattr(layer, "base_layer"):
                layer.merge()
        _merged_into(module, file, name, before[name])


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, lora_alpha=2, target_modules=["q_proj", "fc2"]),
        LoHaConfig(r=4, alpha=2, target_modules=["q_proj", "fc2"]),
        LoKrConfig(r=4, alpha=2, target_modules=["q_proj", "fc2"], decompose_both=True),
    ],
    ids=lambda config: config.peft_type,
)
def test_a_folder_that_peft_saves_is_merged_as_peft_merges_it(tmp_path: Path, config: Any) -> None:
    module = copy.deepcopy(tiny("sd1")[0]["text_encoder"])
    before = lora_files.weights_of(module)
    adapted = get_peft_model(module, config)
    _random(adapted)
    adapted.save_pretrained(tmp_path)
    file = LoraFile.open(tmp_path / "adapter_model.safetensors")
    merged = adapted.merge_and_unload()
    _merged_into(merged, file, "text_encoder", before)


def test_a_file_that_does_not_tell_alpha_is_noted(tmp_path: Path) -> None:
    tensors = {
        "unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3),
        "unet.conv_in.lora_B.weight": torch.ones(8, 2, 1, 1),
    }
    file = LoraFile.open(lora_files.write(tmp_path / "x.safetensors", tensors))
    assert file.notes == ("the file does not tell alpha, so each layer's is its rank",)
    np.testing.assert_array_equal(file.layers["unet"]["conv_in"].merged(np.zeros((8, 4, 3, 3), np.float32), 1), 2)
