"""Tiny one-file checkpoints, and the headers of full-size ones without data."""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmarks.original import OPENCLIP, State, original_clip, original_openclip, original_unet, original_vae
from tests.support.published_configs import CROSS_DOWN, CROSS_UP, DOWN, UP


def write_headers(path: Path, state: State, metadata: dict[str, str] | None = None) -> Path:
    """Write a sparse safetensors file of fp16 zeros, which needs no disk space for data."""
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
    """Return a CLIP text encoder with heads of 64, random weights."""
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
    module: torch.nn.Module = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    return module


TINY_UNETS: dict[str, dict[str, Any]] = {
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


def text_encoders(family: str) -> dict[str, tuple[torch.nn.Module, State]]:
    """Return component -> (module, state in the file's original naming) for each text encoder."""
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


def tiny(family: str, **changes: Any) -> tuple[dict[str, torch.nn.Module], State]:
    """Return a family's modules and the state of its single file; do not change the tensors."""
    modules, state = _build(family, changes) if changes else _built(family)
    return dict(modules), dict(state)


@cache
def _built(family: str) -> tuple[dict[str, torch.nn.Module], State]:
    return _build(family, {})


def _build(family: str, changes: dict[str, Any]) -> tuple[dict[str, torch.nn.Module], State]:
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


def write(path: Path, state: State, dtype: torch.dtype = torch.float16, metadata: dict[str, str] | None = None) -> Path:
    tensors = {n: (t.to(dtype) if t.is_floating_point() else t).contiguous() for n, t in state.items()}
    save_file(tensors, path, metadata=metadata)
    return path


def with_zeros(state: State, *names: str) -> State:
    return state | {name: torch.zeros(0) for name in names}


def public(config: Any) -> dict[str, Any]:
    """Return a diffusers configuration without private fields, with lists instead of tuples."""
    fields = {}
    for name, value in dict(config).items():
        if not name.startswith("_"):
            value = list(value) if isinstance(value, list | tuple) else value
            fields[name] = value
    return fields
