"""Full-size checkpoints of random weights in the real configurations, written tensor by tensor."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

#: The settings in which the real config.json differ from diffusers' defaults.
SD15_UNET: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SD21_UNET: dict[str, Any] = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
    "upcast_attention": True,
}
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
REFINER_UNET: dict[str, Any] = {
    "sample_size": 128,
    "cross_attention_dim": 1280,
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2560,
}
_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
_CLIP = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407}
_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
#: OpenCLIP's H and bigG.
_CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23}
_CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32}
_OPENCLIP = {"hidden_act": "gelu"}
_L = ("text_encoder", CLIPTextModel, _CLIP_L)
_H = ("text_encoder", CLIPTextModel, _CLIP_H | _OPENCLIP)
_G = ("text_encoder_2", CLIPTextModelWithProjection, _CLIP_G | _OPENCLIP | {"projection_dim": 1280})


#: CLIP ViT-L/14.
_SAFETY: dict[str, Any] = {
    "projection_dim": 768,
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    },
}


@dataclass(frozen=True)
class Size:
    """What a full-size checkpoint is made of; ``texts`` are its text encoders' names, classes and settings."""

    unet: dict[str, Any]
    texts: tuple[tuple[str, Any, dict[str, Any]], ...] = (_L,)
    scaling_factor: float = 0.18215
    prediction_type: str = "epsilon"


SIZES = {
    "sd15": Size(SD15_UNET),
    "sd15-inpainting": Size(SD15_UNET | {"in_channels": 9}),
    "lcm": Size(SD15_UNET | {"time_cond_proj_dim": 256}),
    "sd21": Size(SD21_UNET, (_H,), prediction_type="v_prediction"),
    "sdxl": Size(SDXL_UNET, (_L, _G), 0.13025),
    "sdxl-refiner": Size(REFINER_UNET, (_G,), 0.13025),
}


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


def write_extras(folder: Path, size: Size) -> dict[str, Path]:
    """A ControlNet for the size's UNet, TAESD and Stable Diffusion 1's safety checker: option -> folder."""
    rng = np.random.default_rng(1)
    with torch.device("meta"):
        net = ControlNetModel.from_unet(UNet2DConditionModel(**size.unet), load_weights_from_unet=False)
        tiny, checker = AutoencoderTiny(), StableDiffusionSafetyChecker(CLIPConfig(**_SAFETY))
    weights = "diffusion_pytorch_model.safetensors"
    _save(net, dict(net.config), folder / "canny", weights, rng)
    _save(tiny, dict(tiny.config), folder / "taesd", weights, rng)
    _save(checker, checker.config.to_dict(), folder / "safety_checker", "model.safetensors", rng)
    names = {"--controlnet": "canny", "--preview": "taesd", "--safety-checker": "safety_checker"}
    return {option: folder / name for option, name in names.items()}


def write_checkpoint(folder: Path, size: Size, tokenizer: Path) -> None:
    """A checkpoint of that size in diffusers' layout; ``tokenizer`` is a folder with vocab.json and merges.txt."""
    rng = np.random.default_rng(0)
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**size.unet), AutoencoderKL(**_VAE, scaling_factor=size.scaling_factor)
        texts = [(name, kind(CLIPTextConfig(**_CLIP, **settings))) for name, kind, settings in size.texts]
    _save(unet, dict(unet.config), folder / "unet", "diffusion_pytorch_model.safetensors", rng)
    _save(vae, dict(vae.config), folder / "vae", "diffusion_pytorch_model.safetensors", rng)
    for name, module in texts:
        config = module.config.to_dict() | {"architectures": [type(module).__name__]}
        _save(module, config, folder / name, "model.safetensors", rng)
        words = folder / name.replace("text_encoder", "tokenizer")
        words.mkdir()
        for file in ("vocab.json", "merges.txt"):
            (words / file).write_bytes((tokenizer / file).read_bytes())
    (folder / "scheduler").mkdir()
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    settings |= {"prediction_type": size.prediction_type}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    name = "StableDiffusionXLPipeline" if size.unet.get("addition_embed_type") else "StableDiffusionPipeline"
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
