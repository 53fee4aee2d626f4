from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders.lora_base import fuse_text_encoder_lora

from converter.loras import LoraFile
from converter.loras.names import read_name
from tests.support import lora_files
from tests.support.single_files import tiny

_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
_LAYERS = (torch.nn.Linear, torch.nn.Conv2d)


def test_every_layer_is_merged_as_diffusers_fuses_it(tmp_path: Path) -> None:
    modules = {name: copy.deepcopy(module) for name, module in tiny("sd1")[0].items() if name in _PREFIXES}
    multiplier = -0.7
    before = {name: lora_files.weights_of(module) for name, module in modules.items()}
    tensors: lora_files.Tensors = {}
    for network, module in modules.items():
        for path, layer in module.named_modules():
            if isinstance(layer, _LAYERS):
                plain = path if network == "unet" else f"text_model.{path}"
                tensors |= lora_files.low_rank(_PREFIXES[network] + plain.replace(".", "_"), layer.weight.shape)
    file = LoraFile.open(lora_files.write(tmp_path / "every.safetensors", tensors))

    state, alphas = StableDiffusionPipeline.lora_state_dict(dict(tensors), unet_config=modules["unet"].config)
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, modules["unet"])
    modules["unet"].fuse_lora(lora_scale=multiplier)
    StableDiffusionPipeline.load_lora_into_text_encoder(
        state, alphas, modules["text_encoder"], prefix="text_encoder", lora_scale=1.0
    )
    fuse_text_encoder_lora(modules["text_encoder"], lora_scale=multiplier)

    assert sum(map(len, file.layers.values())) == len(tensors) // 3 > 200
    for network, module in modules.items():
        after = lora_files.weights_of(module)
        for target, layer in file.layers[network].items():
            name = f"{target}_weight" if network == "unet" else f"{target.removeprefix('text_model_')}_weight"
            merged = layer.merged(before[network][name], multiplier)
            assert merged.dtype == np.float32
            np.testing.assert_allclose(merged, after[name], rtol=0, atol=2e-6, err_msg=name)
            assert np.abs(merged - before[network][name]).max() > 1e-3


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_original_names_are_those_of_diffusers(family: str) -> None:
    modules, original = tiny(family)
    ours = {tensor.data_ptr(): name for name, tensor in modules["unet"].named_parameters()}
    seen = set()
    for name, tensor in original.items():
        path, _, kind = name.removeprefix("model.diffusion_model.").rpartition(".")
        if not name.startswith("model.diffusion_model.") or kind != "weight":
            continue
        expected = ours[tensor.data_ptr()].removesuffix(".weight").replace(".", "_")
        for key in (
            f"lora_unet_{path.replace('.', '_')}.lora_down.weight",
            f"diffusion_model.{path}.lora_A.weight",
            f"lora_unet_{expected}.hada_w1_a",
        ):
            found = read_name(key)
            assert found is not None, key
            assert (found.network, found.target) == ("unet", expected), key
        seen.add(expected)
    assert len(seen) == sum(name.endswith(".weight") for name in ours.values()) > 200
