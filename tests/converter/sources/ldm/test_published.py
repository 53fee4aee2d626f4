"""The published checkpoints at full size: their configurations from their tensors' shapes alone."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from converter.sources.single_file import SingleFile
from tests.support.published_configs import PUBLISHED
from tests.support.single_files import (
    OPENCLIP,
    original_clip,
    original_openclip,
    original_unet,
    original_vae,
    public,
    text_encoder,
    write_headers,
)


def full_size(family, configs):
    """Modules of a published checkpoint's configurations without data, and the names and shapes of its single file."""
    with torch.device("meta"):
        modules = {
            "unet": UNet2DConditionModel.from_config(configs["unet"]),
            "vae": AutoencoderKL.from_config(configs["vae"]),
        }
        for name in ("text_encoder", "text_encoder_2"):
            if name in configs:
                config = dict(configs[name])
                # The original file has the layer that diffusers leaves out.
                config["num_hidden_layers"] += family == "sd2"
                width, layers = config.pop("hidden_size"), config.pop("num_hidden_layers")
                projected = config.pop("architectures") == ["CLIPTextModelWithProjection"]
                modules[name] = text_encoder(width, layers, projected=projected, **config)
    state = original_unet(modules["unet"]) | original_vae(modules["vae"])
    if family == "sd1":
        state |= original_clip(modules["text_encoder"], "cond_stage_model.transformer.text_model.")
    elif family == "sd2":
        state |= original_openclip(modules["text_encoder"], OPENCLIP)
    else:
        index = 0
        if family == "sdxl":
            index = 1
            state |= original_clip(modules["text_encoder"], "conditioner.embedders.0.transformer.text_model.")
        state |= original_openclip(modules["text_encoder_2"], f"conditioner.embedders.{index}.model.")
    return modules, state


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_a_published_checkpoint_s_configurations_are_found_from_its_shapes(name, tmp_path):
    family, configs = PUBLISHED[name]
    modules, state = full_size(family, configs)
    metadata = {"modelspec.architecture": "stable-diffusion-v2-768-v"} if name == "stable-diffusion-2-1" else None
    path = write_headers(tmp_path / "full.safetensors", state, metadata)
    assert path.stat().st_blocks * 512 < 4e6
    source = SingleFile.open(path)
    assert source.architecture.family == family
    assert source.architecture.inpainting == ("inpainting" in name)
    for component in set(configs) - {"unet", "vae"}:
        assert {field: source.config(component)[field] for field in configs[component]} == configs[component]
    # The UNet's and the VAE's with the classes' defaults filled in, which some files state and others do not.
    for component, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        ours, tensors = source.config(component), source.tensors(component)
        with torch.device("meta"):
            assert public(kind.from_config(ours).config) == public(modules[component].config)
        shapes = {n: tuple(t.shape) for n, t in modules[component].state_dict().items()}
        assert {n: tensors.shape(n) for n in tensors} == shapes
