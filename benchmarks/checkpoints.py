"""Full-size checkpoints of random weights in the real configurations, written tensor by tensor."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

#: The settings in which the real config.json differ from diffusers' defaults.
SD15_UNET: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
_CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32}
_CLIP = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407}


@dataclass(frozen=True)
class Size:
    """What a full-size checkpoint is made of."""

    unet: dict[str, Any]
    scaling_factor: float
    two_text_encoders: bool


SIZES = {"sd15": Size(SD15_UNET, 0.18215, False), "sdxl": Size(SDXL_UNET, 0.13025, True)}


def _write_random(module: torch.nn.Module, folder: Path, name: str, rng: np.random.Generator) -> None:
    """Random fp16 weights of a module on the meta device, as a safetensors file; one tensor in memory at a time.

    Matrices are scaled by their fan-in and norms are near one, so that activations stay in fp16's range.
    """
    tensors = {key: tuple(value.shape) for key, value in module.state_dict().items() if value.is_floating_point()}
    header: dict[str, Any] = {}
    offset = 0
    for key, shape in tensors.items():
        size = 2 * int(np.prod(shape))
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / name).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in tensors.values():
            if len(shape) > 1:
                values = rng.standard_normal(shape, np.float32) * np.float32(np.prod(shape[1:]) ** -0.5)
            else:
                values = np.ones(shape, np.float32)
            file.write(values.astype(np.float16).tobytes())


def _save(module: torch.nn.Module, config: dict[str, Any], folder: Path, name: str, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, default=list))
    _write_random(module, folder, name, rng)


def write_checkpoint(folder: Path, size: Size, tokenizer: Path) -> None:
    """A checkpoint of that size in diffusers' layout; ``tokenizer`` is a folder with vocab.json and merges.txt."""
    rng = np.random.default_rng(0)
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**size.unet), AutoencoderKL(**_VAE, scaling_factor=size.scaling_factor)
        text = [CLIPTextModel(CLIPTextConfig(**_CLIP, **_CLIP_L))]
        if size.two_text_encoders:
            wide = CLIPTextConfig(**_CLIP, **_CLIP_G, hidden_act="gelu", projection_dim=1280)
            text.append(CLIPTextModelWithProjection(wide))
    _save(unet, dict(unet.config), folder / "unet", "diffusion_pytorch_model.safetensors", rng)
    _save(vae, dict(vae.config), folder / "vae", "diffusion_pytorch_model.safetensors", rng)
    for module, name in zip(text, ("text_encoder", "text_encoder_2"), strict=False):
        config = module.config.to_dict() | {"architectures": [type(module).__name__]}
        _save(module, config, folder / name, "model.safetensors", rng)
        words = folder / name.replace("text_encoder", "tokenizer")
        words.mkdir()
        for file in ("vocab.json", "merges.txt"):
            (words / file).write_bytes((tokenizer / file).read_bytes())
    (folder / "scheduler").mkdir()
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    name = "StableDiffusionXLPipeline" if size.two_text_encoders else "StableDiffusionPipeline"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
