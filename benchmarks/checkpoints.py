"""Writes full-size checkpoints of random weights in the real configurations, tensor by tensor."""

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

from benchmarks.original import original_clip, original_openclip, original_unet, original_vae

_POSITIONS = "text_model.embeddings.position_ids"
_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "I64": 8}
#: Settings of the real config.json files that differ from diffusers' defaults.
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
    """The configuration of a full-size checkpoint; ``texts``: its text encoders' names, classes and settings."""

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


Shapes = dict[str, tuple[int, ...]]


def _shapes(module: torch.nn.Module) -> Shapes:
    """Return the names and shapes of a module's tensors, as in published checkpoints.

    There CLIP's tensors are called text_model.* and include the positions' numbers; transformers 5 has neither.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    if not isinstance(module, CLIPTextModel | CLIPTextModelWithProjection):
        return shapes
    own = ("text_model.", "text_projection.")
    named = {name if name.startswith(own) else f"text_model.{name}": shape for name, shape in shapes.items()}
    return named | {_POSITIONS: (1, 77)}


def _write_random(tensors: Shapes, path: Path, rng: np.random.Generator, dtype: str = "F16") -> None:
    """Write random weights with these names and shapes as a safetensors file, one tensor in memory at a time.

    Matrices are scaled by their fan-in and norms are one, so that activations stay in fp16's range.
    """
    header: dict[str, Any] = {}
    offset = 0
    for key, shape in tensors.items():
        kind = "I64" if key.endswith("position_ids") else dtype
        size = _BYTES[kind] * int(np.prod(shape))
        header[key] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key, shape in tensors.items():
            if key.endswith("position_ids"):
                file.write(np.arange(shape[-1], dtype=np.int64).tobytes())
                continue
            if len(shape) > 1:
                values = rng.standard_normal(shape, np.float32) * np.float32(np.prod(shape[1:]) ** -0.5)
            else:
                values = np.ones(shape, np.float32)
            file.write(_stored(values, dtype))


def _stored(values: np.ndarray[Any, np.dtype[np.float32]], dtype: str) -> bytes:
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype({"F16": np.float16, "F32": np.float32}[dtype]).tobytes()


def _save(module: torch.nn.Module, config: dict[str, Any], folder: Path, name: str, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, default=list))
    _write_random(_shapes(module), folder / name, rng)


def write_extras(folder: Path, size: Size) -> dict[str, Path]:
    """Write a ControlNet for the size's UNet, TAESD and SD 1's safety checker; return option -> folder."""
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


def modules(size: Size, *, last_layer: bool = False) -> tuple[Any, Any, dict[str, Any]]:
    """Return UNet, autoencoder and text encoders without data; with ``last_layer``, add the one folders lack in OpenCLIP H."""
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**size.unet), AutoencoderKL(**_VAE, scaling_factor=size.scaling_factor)
        texts = {}
        for name, kind, settings in size.texts:
            more = {"num_hidden_layers": 24} if last_layer and settings["hidden_size"] == 1024 else {}
            texts[name] = kind(CLIPTextConfig(**_CLIP | settings | more))
    return unet, vae, texts


def file_shapes(size: Size) -> Shapes:
    """Return the shapes of a one-file checkpoint's tensors, in the original naming, with training leftovers."""
    unet, vae, texts = modules(size, last_layer=True)
    state = original_unet(unet) | original_vae(vae)
    xl = size.unet.get("addition_embed_type") is not None
    for name, module in texts.items():
        index = 0 if len(texts) == 1 or name == "text_encoder" else 1
        openai = "conditioner.embedders.0.transformer.text_model." if xl else "cond_stage_model.transformer.text_model."
        if module.config.hidden_act == "quick_gelu":
            state |= original_clip(module, openai)
            state[f"{openai}embeddings.position_ids"] = torch.empty(1, 77, device="meta")
        else:
            prefix = f"conditioner.embedders.{index}.model." if xl else "cond_stage_model.model."
            state |= original_openclip(module, prefix)
            state[f"{prefix}logit_scale"] = torch.empty(1, device="meta")
            if not xl:
                state[f"{prefix}text_projection"] = torch.empty(1024, 1024, device="meta")
    return {name: tuple(tensor.shape) for name, tensor in state.items()} | ({} if xl else {"betas": (1000,)})


def write_file(path: Path, size: Size, dtype: str = "F16") -> None:
    """Write a one-file checkpoint of random weights."""
    _write_random(file_shapes(size), path, np.random.default_rng(0), dtype)


def write_checkpoint(folder: Path, size: Size, tokenizer: Path) -> None:
    """Write a checkpoint in diffusers' layout; ``tokenizer`` is a folder with vocab.json and merges.txt."""
    rng = np.random.default_rng(0)
    unet, vae, texts = modules(size)
    _save(unet, dict(unet.config), folder / "unet", "diffusion_pytorch_model.safetensors", rng)
    _save(vae, dict(vae.config), folder / "vae", "diffusion_pytorch_model.safetensors", rng)
    for name, module in texts.items():
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
