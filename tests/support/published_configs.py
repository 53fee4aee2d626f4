"""The config.json files of published checkpoints, without library versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from converter.sources.checkpoint import Checkpoint

#: The configurations of diffusers' folders on the hub, by repository and part.
FOLDERS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "published_configs.json").read_text()
)

DOWN, CROSS_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"

SD15_UNET = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, DOWN],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": [UP, CROSS_UP, CROSS_UP, CROSS_UP],
}
SD21_UNET = SD15_UNET | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}
SDXL_UNET = SD15_UNET | {
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": [DOWN, CROSS_DOWN, CROSS_DOWN],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": [CROSS_UP, CROSS_UP, UP],
    "use_linear_projection": True,
}
REFINER_UNET = SDXL_UNET | {
    "attention_head_dim": [6, 12, 24, 24],
    "block_out_channels": [384, 768, 1536, 1536],
    "cross_attention_dim": 1280,
    "down_block_types": [DOWN, CROSS_DOWN, CROSS_DOWN, DOWN],
    "projection_class_embeddings_input_dim": 2560,
    "transformer_layers_per_block": 4,
    "up_block_types": [UP, CROSS_UP, CROSS_UP, UP],
}
SD15_VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SDXL_VAE = SD15_VAE | {"force_upcast": True, "sample_size": 1024, "scaling_factor": 0.13025}
SD15_TEXT = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "vocab_size": 49408,
}
SD21_TEXT = SD15_TEXT | {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
BIG_TEXT = SD15_TEXT | {
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
PNDM = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
EULER = PNDM | {
    "_class_name": "EulerDiscreteScheduler",
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
#: Name -> family and each component's configuration.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "stable-diffusion-v1-5": (
        "sd1",
        {"text_encoder": SD15_TEXT, "unet": SD15_UNET, "vae": SD15_VAE, "scheduler": PNDM},
    ),
    "stable-diffusion-inpainting": (
        "sd1",
        {"text_encoder": SD15_TEXT, "unet": SD15_UNET | {"in_channels": 9}, "vae": SD15_VAE, "scheduler": PNDM},
    ),
    "stable-diffusion-2-1": (
        "sd2",
        {
            "text_encoder": SD21_TEXT,
            "unet": SD21_UNET,
            "vae": SD15_VAE | {"sample_size": 768},
            "scheduler": PNDM | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
        },
    ),
    "stable-diffusion-2-inpainting": (
        "sd2",
        {
            "text_encoder": SD21_TEXT,
            "unet": {k: v for k, v in SD21_UNET.items() if k != "upcast_attention"}
            | {"in_channels": 9, "sample_size": 64},
            "vae": SD15_VAE,
            "scheduler": PNDM | {"prediction_type": "epsilon"},
        },
    ),
    "stable-diffusion-xl-base-1.0": (
        "sdxl",
        {
            "text_encoder": SD15_TEXT,
            "text_encoder_2": BIG_TEXT,
            "unet": SDXL_UNET,
            "vae": SDXL_VAE,
            "scheduler": EULER,
        },
    ),
    "stable-diffusion-xl-1.0-inpainting-0.1": (
        "sdxl",
        {
            "text_encoder": SD15_TEXT,
            "text_encoder_2": BIG_TEXT,
            "unet": SDXL_UNET | {"in_channels": 9},
            "vae": SDXL_VAE,
            "scheduler": EULER,
        },
    ),
    "stable-diffusion-xl-refiner-1.0": (
        "sdxl_refiner",
        {"text_encoder_2": BIG_TEXT, "unet": REFINER_UNET, "vae": SDXL_VAE, "scheduler": EULER},
    ),
}


def write_published(name: str, folder: Path) -> Checkpoint:
    """Write the repository's configurations into ``folder``, without weights, and open it."""
    for part, config in FOLDERS[name].items():
        file = {"index": "model_index.json", "scheduler": "scheduler/scheduler_config.json"}.get(
            part, f"{part}/config.json"
        )
        file = f"{part}.json" if part.endswith("special_tokens_map") else file
        file = f"{part}/tokenizer_config.json" if part.startswith("tokenizer") and "/" not in part else file
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(config))
    return Checkpoint.open(folder)
