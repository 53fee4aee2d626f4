"""Tiny checkpoints with random weights, in the real classes and layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TEXT_WIDTH = 32
SIDE = 64


def write_tokenizer(folder: Path) -> int:
    """Write a CLIP vocabulary of single bytes and a few words, and return its size."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("r", "e"), ("re", "d</w>"), ("b", "l"), ("bl", "u"), ("blu", "e</w>")]
    subwords = [*alphabet, *(f"{c}</w>" for c in alphabet), *("".join(m) for m in merges)]
    tokens = [*subwords, "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    config = {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)


def tiny_unet(**changes: Any) -> UNet2DConditionModel:
    """Return a UNet with every kind of block of Stable Diffusion 1, random weights."""
    torch.manual_seed(1)
    settings = {
        "sample_size": SIDE // 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**(settings | changes)).eval()


def tiny_vae(**changes: Any) -> AutoencoderKL:
    """Return an f8 autoencoder, random weights."""
    torch.manual_seed(2)
    settings = {
        "block_out_channels": (8, 8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": SIDE,
    }
    return AutoencoderKL(**(settings | changes)).eval()


def tiny_text_encoder(vocabulary: int, kind: type[Any] = CLIPTextModel, **changes: Any) -> Any:
    """Return a CLIP text encoder (of class ``kind``) of two layers, random weights."""
    torch.manual_seed(3)
    settings = {
        "vocab_size": vocabulary,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
    return kind(CLIPTextConfig(**(settings | changes))).eval()


def save_published(module: Any, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Save a module in ``dtype`` under the tensor names of the hub's folders, which differ from those of current libraries.

    There CLIP's tensors are called text_model.* and include the positions' numbers; transformers 5 has neither.
    """
    module.to(dtype).save_pretrained(folder, safe_serialization=True)
    module.to(torch.float32)
    if isinstance(module, CLIPTextModel | CLIPTextModelWithProjection):
        file = folder / "model.safetensors"
        kept = ("text_model.", "text_projection.")
        state = {n if n.startswith(kept) else f"text_model.{n}": t for n, t in load_file(file).items()}
        state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        save_file(state, file, metadata={"format": "pt"})


def write_checkpoint(
    folder: Path,
    *,
    prediction_type: str = "epsilon",
    unet: Any = None,
    vae: Any = None,
    text: dict[str, Any] | None = None,
    says_spacing: bool = False,
) -> Path:
    """Write a complete Stable Diffusion checkpoint, fp16, into ``folder`` in the published layout.

    ``says_spacing``: whether its scheduler has a timestep_spacing, as SDXL's have; those of Stable Diffusion 1 and 2 have none.
    """
    vocabulary = write_tokenizer(folder / "tokenizer")
    text_encoder = tiny_text_encoder(vocabulary, **(text or {}))
    for name, module in (("unet", unet or tiny_unet()), ("vae", vae or tiny_vae()), ("text_encoder", text_encoder)):
        save_published(module, folder / name)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.save_pretrained(folder / "scheduler")
    if not says_spacing:
        config = folder / "scheduler" / "scheduler_config.json"
        config.write_text(
            json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "timestep_spacing"})
        )
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


def write_xl_checkpoint(folder: Path, *, refiner: bool = False) -> Path:
    """Write a Stable Diffusion XL checkpoint, or a refiner with only the second text encoder, into ``folder``."""
    vocabulary = write_tokenizer(folder / "tokenizer_2")
    config = {"tokenizer_class": "CLIPTokenizer", "pad_token": "!", "model_max_length": 77}
    (folder / "tokenizer_2" / "tokenizer_config.json").write_text(json.dumps(config))
    second = tiny_text_encoder(vocabulary, kind=CLIPTextModelWithProjection, hidden_act="gelu", projection_dim=24)
    ids = 5 if refiner else 6
    unet = tiny_unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=TEXT_WIDTH if refiner else 2 * TEXT_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * ids + 24,
    )
    write_checkpoint(folder, unet=unet, vae=tiny_vae(scaling_factor=0.13025), says_spacing=True)
    save_published(second, folder / "text_encoder_2")
    name = "StableDiffusionXLImg2ImgPipeline" if refiner else "StableDiffusionXLPipeline"
    index = {"_class_name": name, "force_zeros_for_empty_prompt": not refiner}
    (folder / "model_index.json").write_text(json.dumps(index))
    if refiner:
        shutil.rmtree(folder / "text_encoder")
        shutil.rmtree(folder / "tokenizer")
    return folder


def xl_parts(checkpoint: Path) -> dict[str, Any]:
    """Return the modules of an XL checkpoint in fp32, as arguments of diffusers' pipelines; missing ones are None."""

    def part(kind: Any, name: str, **settings: Any) -> Any:
        return kind.from_pretrained(checkpoint / name, **settings) if (checkpoint / name).is_dir() else None

    return {
        "vae": part(AutoencoderKL, "vae", dtype=torch.float32),
        "text_encoder": part(CLIPTextModel, "text_encoder", dtype=torch.float32),
        "text_encoder_2": part(CLIPTextModelWithProjection, "text_encoder_2", dtype=torch.float32),
        "tokenizer": part(CLIPTokenizer, "tokenizer"),
        "tokenizer_2": part(CLIPTokenizer, "tokenizer_2"),
        "unet": part(UNet2DConditionModel, "unet", dtype=torch.float32),
    }


def diffusers_pipeline(checkpoint: Path) -> StableDiffusionPipeline:
    """Return diffusers' own pipeline of a checkpoint, in fp32: the reference for whole images."""
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(checkpoint / "vae", dtype=torch.float32),
        text_encoder=CLIPTextModel.from_pretrained(checkpoint / "text_encoder", dtype=torch.float32),
        tokenizer=CLIPTokenizer.from_pretrained(checkpoint / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(checkpoint / "unet", dtype=torch.float32),
        scheduler=DDIMScheduler.from_pretrained(checkpoint / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def image_of_diffusers(pipeline: Any, fields: Mapping[str, Any], guidance_scale: float, **call: Any) -> NDArray[Any]:
    """Make an image with diffusers' pipeline from a request's fields; values from 0 to 255."""
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        fields["prompt"],
        negative_prompt=fields["negative_prompt"],
        num_inference_steps=fields["steps"],
        generator=torch.Generator("cpu").manual_seed(fields["seed"]),
        guidance_scale=guidance_scale,
        output_type="np",
        **call,
    )
    return np.asarray(255 * made.images[0])
