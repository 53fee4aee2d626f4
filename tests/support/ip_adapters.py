"""Tiny IP-Adapters with random weights in the published layout: one file, and the image encoder's folder beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

PROJECTED, HIDDEN = 24, 32


def tiny_image_encoder(**changes: Any) -> CLIPVisionModelWithProjection:
    """Return a CLIP image encoder of two layers for images of 28x28, random weights."""
    torch.manual_seed(6)
    settings = {
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
        "projection_dim": PROJECTED,
        "hidden_act": "gelu",
    }
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**(settings | changes))).eval()


def _published(name: str) -> str:
    """Return the published name of a tensor of the resampler, from diffusers'."""
    for ours, theirs in (
        (".ln0.", ".0.norm1."),
        (".ln1.", ".0.norm2."),
        (".attn.to_out.0.", ".0.to_out."),
        (".attn.", ".0."),
        (".ff.0.", ".1.0."),
        (".ff.1.net.0.proj.", ".1.1."),
        (".ff.1.net.2.", ".1.3."),
    ):
        if ours in name:
            return name.replace(ours, theirs)
    return name


def write_ip_adapter(folder: Path, unet: UNet2DConditionModel, *, plus: bool = False, name: str = "ip-adapter") -> Path:
    """Write the file ``name``.safetensors for this UNet, fp16, and image_encoder beside it; return the file."""
    torch.manual_seed(8)
    width = unet.config.cross_attention_dim
    state: dict[str, torch.Tensor] = {}
    if plus:
        resampler = IPAdapterPlusImageProjection(HIDDEN, width, 64, heads=1, num_queries=6).state_dict()
        for key, value in resampler.items():
            if key.endswith("attn.to_k.weight"):
                both = torch.cat([value, resampler[key.replace("to_k", "to_v")]])
                state["image_proj." + _published(key).replace("to_k", "to_kv")] = both
            elif not key.endswith("attn.to_v.weight"):
                state["image_proj." + _published(key)] = value
    else:
        for key, value in ImageProjection(PROJECTED, width, 4).state_dict().items():
            state["image_proj." + key.replace("image_embeds", "proj")] = value
    crosses = [n.removesuffix(".processor") for n in unet.attn_processors if n.endswith("attn2.processor")]
    for index, path in enumerate(crosses):
        for side in "kv":
            like = unet.get_submodule(f"{path}.to_{side}").weight
            # Large values, so that the image changes what a random UNet makes.
            size = {"k": 1, "v": 8}[side]
            state[f"ip_adapter.{2 * index + 1}.to_{side}_ip.weight"] = size * torch.randn_like(like) / width**0.5
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.safetensors"
    save_file({key: value.half().contiguous() for key, value in state.items()}, file, metadata={"format": "pt"})
    if not (folder / "image_encoder").is_dir():
        tiny_image_encoder().half().save_pretrained(folder / "image_encoder", safe_serialization=True)
    return file
