"""Checkpoints in one file: diffusers' modules written in the original naming, from what diffusers' names mean.

The reader under test goes the other way and by other means (it walks the numbered blocks); no code is shared.
"""

from __future__ import annotations

import json
import re
import struct
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from published_configs import CROSS_DOWN, CROSS_UP, DOWN, UP
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

State = dict[str, torch.Tensor]

OPENCLIP = "cond_stage_model.model."

_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
_UNET_ENDS = (
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
)


def _replaced(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for new, old in pairs:
        if text == new or text.startswith(f"{new}."):
            return old + text[len(new) :]
    return text


def _unet_name(name: str, unet: UNet2DConditionModel) -> str:
    step = unet.config.layers_per_block + 1
    if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
        side, level, kind, layer, rest = match.groups()
        blocks, first = ("input_blocks", 1) if side == "down" else ("output_blocks", 0)
        index = int(level) * step + int(layer) + first
        return (
            f"{blocks}.{index}.1.{rest}" if kind == "attentions" else f"{blocks}.{index}.0.{_replaced(rest, _RESNET)}"
        )
    if match := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
        return f"input_blocks.{(int(match[1]) + 1) * step}.0.op.{match[2]}"
    if match := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name):
        level = int(match[1])
        place = 2 if "CrossAttn" in unet.config.up_block_types[level] else 1
        return f"output_blocks.{(level + 1) * step - 1}.{place}.conv.{match[2]}"
    if match := re.match(r"mid_block\.resnets\.(\d)\.(.*)", name):
        return f"middle_block.{2 * int(match[1])}.{_replaced(match[2], _RESNET)}"
    if match := re.match(r"mid_block\.attentions\.0\.(.*)", name):
        return f"middle_block.1.{match[1]}"
    return _replaced(name, _UNET_ENDS)


def original_unet(unet: UNet2DConditionModel) -> State:
    """A UNet's tensors as the original names them."""
    return {f"model.diffusion_model.{_unet_name(name, unet)}": t for name, t in unet.state_dict().items()}


def original_vae(vae: AutoencoderKL) -> State:
    """An autoencoder's tensors as the original names them; attention is made of 1x1 convolutions there."""
    found, last = {}, len(vae.config.block_out_channels) - 1
    for name, tensor in vae.state_dict().items():
        old = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        old = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", old)
        old = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{last - int(m[1])}.block.", old)
        old = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{last - int(m[1])}.upsample.", old)
        old = re.sub(r"mid_block\.resnets\.(\d)\.", lambda m: f"mid.block_{int(m[1]) + 1}.", old)
        old = old.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "mid_block.attentions.0." in old:
            old = old.replace("mid_block.attentions.0.", "mid.attn_1.").replace("to_out.0", "proj_out")
            old = re.sub(r"to_([qkv])\.", r"\1.", old).replace("group_norm", "norm")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        found[f"first_stage_model.{old}"] = tensor
    return found


def _bare(encoder: torch.nn.Module) -> State:
    return {name.removeprefix("text_model."): tensor for name, tensor in encoder.state_dict().items()}


def original_clip(encoder: torch.nn.Module, prefix: str) -> State:
    """A CLIP text encoder in OpenAI's spelling, under ``prefix``."""
    return {prefix + name: tensor for name, tensor in _bare(encoder).items()}


def original_openclip(encoder: torch.nn.Module, prefix: str) -> State:
    """A CLIP text encoder in OpenCLIP's spelling, under ``prefix``: fused projections, [in, out] at the end."""
    bare, found = _bare(encoder), {}
    for name, tensor in bare.items():
        if name == "text_projection.weight":
            found["text_projection"] = tensor.T.contiguous()
        elif match := re.match(r"encoder\.layers\.(\d+)\.(.*)", name):
            layer, rest = f"transformer.resblocks.{match[1]}", match[2]
            if part := re.match(r"self_attn\.([qkv])_proj\.(weight|bias)", rest):
                if part[1] == "q":
                    path = f"encoder.layers.{match[1]}.self_attn"
                    fused = [bare[f"{path}.{letter}_proj.{part[2]}"] for letter in "qkv"]
                    found[f"{layer}.attn.in_proj_{part[2]}"] = torch.cat(fused)
                continue
            for new, old in (
                ("layer_norm", "ln_"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
                ("self_attn.", "attn."),
            ):
                rest = rest.replace(new, old)
            found[f"{layer}.{rest}"] = tensor
        else:
            ends = {
                "embeddings.token_embedding.weight": "token_embedding.weight",
                "embeddings.position_embedding.weight": "positional_embedding",
                "final_layer_norm.weight": "ln_final.weight",
                "final_layer_norm.bias": "ln_final.bias",
            }
            found[ends[name]] = tensor
    return {prefix + name: tensor for name, tensor in found.items()}


def write_headers(path: Path, state: State, metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file of fp16 tensors that are all zero and take no room on disk."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, tensor in state.items():
        begin, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def text_encoder(width: int, layers: int, *, projected: bool = False, **changes: Any) -> torch.nn.Module:
    """A CLIP text encoder with heads of 64, random weights."""
    config = CLIPTextConfig(
        **{
            "vocab_size": 49408,
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 64,
            "max_position_embeddings": 77,
            "projection_dim": width,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
        }
        | changes
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


TINY_UNETS = {
    "sd1": {
        "sample_size": 64,
        "block_out_channels": (32, 64, 64),
        "down_block_types": (CROSS_DOWN, CROSS_DOWN, DOWN),
        "up_block_types": (UP, CROSS_UP, CROSS_UP),
        "cross_attention_dim": 64,
        "attention_head_dim": 8,
    },
    "sd2": {
        "sample_size": 64,
        "block_out_channels": (64, 128),
        "down_block_types": (CROSS_DOWN, DOWN),
        "up_block_types": (UP, CROSS_UP),
        "cross_attention_dim": 128,
        "attention_head_dim": (1, 2),
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (64, 64, 128),
        "down_block_types": (DOWN, CROSS_DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, CROSS_UP, UP),
        "cross_attention_dim": 64 + 128,
        "attention_head_dim": (1, 1, 2),
        "transformer_layers_per_block": (1, 2, 3),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 128 + 6 * 256,
    },
    "sdxl_refiner": {
        "sample_size": 128,
        "block_out_channels": (64, 64, 128, 128),
        "down_block_types": (DOWN, CROSS_DOWN, CROSS_DOWN, DOWN),
        "up_block_types": (UP, CROSS_UP, CROSS_UP, UP),
        "cross_attention_dim": 128,
        "attention_head_dim": (1, 1, 2, 2),
        "transformer_layers_per_block": 2,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 128 + 5 * 256,
    },
}


def text_encoders(family):
    """Each text encoder's module and what it is in the file: component -> (module, original state)."""
    if family == "sd1":
        module = text_encoder(64, 2)
        return {"text_encoder": (module, original_clip(module, "cond_stage_model.transformer.text_model."))}
    if family == "sd2":
        module = text_encoder(128, 24)
        projection = {f"{OPENCLIP}text_projection": torch.randn(128, 128)}
        return {"text_encoder": (module, original_openclip(module, OPENCLIP) | projection)}
    large = text_encoder(128, 3, projected=True)
    if family == "sdxl_refiner":
        return {"text_encoder_2": (large, original_openclip(large, "conditioner.embedders.0.model."))}
    small = text_encoder(64, 2)
    return {
        "text_encoder": (small, original_clip(small, "conditioner.embedders.0.transformer.text_model.")),
        "text_encoder_2": (large, original_openclip(large, "conditioner.embedders.1.model.")),
    }


def tiny(family, **changes):
    """A family's modules, and the state of its single file; the tensors are not to be changed."""
    modules, state = _build(family, changes) if changes else _built(family)
    return dict(modules), dict(state)


@cache
def _built(family):
    return _build(family, {})


def _build(family, changes):
    torch.manual_seed(5)
    unet = UNet2DConditionModel(**(TINY_UNETS[family] | changes))
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=2,
        sample_size=4 * TINY_UNETS[family]["sample_size"],
        scaling_factor=0.13025 if family.startswith("sdxl") else 0.18215,
    )
    texts = text_encoders(family)
    state = original_unet(unet) | original_vae(vae)
    for _, original in texts.values():
        state |= original
    leftovers = {
        "model_ema.decay": torch.zeros(()),
        "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(3),
        "betas": torch.zeros(10),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "cond_stage_model.logit_scale": torch.zeros(()),
    }
    modules = {name: module for name, (module, _) in texts.items()} | {"unet": unet, "vae": vae}
    return modules, state | (leftovers if family == "sd1" else {})


def write(path, state, dtype=torch.float16, metadata=None):
    made = {n: (t.to(dtype) if t.is_floating_point() else t).contiguous() for n, t in state.items()}
    save_file(made, path, metadata=metadata)
    return path


def with_zeros(state, *names):
    return state | {name: torch.zeros(0) for name in names}


def public(config):
    """A diffusers configuration with its defaults filled in, lists for tuples, one number where all are the same."""
    found = {}
    for name, value in dict(config).items():
        if not name.startswith("_"):
            value = list(value) if isinstance(value, list | tuple) else value
            found[name] = value
    return found
