"""Exports the trained weights as an ordinary diffusers checkpoint folder in fp16 safetensors: `demo/model`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from demo.networks import make_text_encoder, make_unet
from demo.train_text import load_tokenizer
from demo.train_unet import SCHEDULE, trained_vae

#: The server's defaults for requests, and prompts for `anemone analyze`: captions as in training, none of them held out.
DEFAULTS = {
    "steps": 20,
    "guidance_scale": 3.0,
    "most_clip_skip": 3,
    "prompts": [
        "a big red star in the top left corner on a dotted yellow background",
        "a drawing of at the top left, a large pink ring, a cyan heart near the bottom on a yellow background",
        "a drawing of a large purple diamond at the bottom with a checkered yellow background",
        "a drawing of a small blue star left of a tiny yellow diamond on a dotted red background",
        "an outlined green square at the top left on a red background",
        "a picture of an outlined cyan donut in the top right corner and a small outlined white cross in the centre with a "
        "purple background",
        "a little shaded pink triangle in the bottom right against a plain blue background",
        "an outlined cyan diamond in the upper left and an outlined white square at the bottom left on a red background",
    ],
}


def export(folder: Path, out: Path) -> None:
    """Write the averaged weights of all stages in ``folder`` as a Stable Diffusion checkpoint in ``out``."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    text = make_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    words = torch.load(folder / "text.pt", weights_only=True)["averaged"]
    text.load_state_dict({k.removeprefix("encoder."): v for k, v in words.items() if k.startswith("encoder.")})
    unet = make_unet()
    unet.load_state_dict(torch.load(folder / "unet.pt", weights_only=True)["averaged"])
    vae = trained_vae(folder)
    vae.register_to_config(scaling_factor=round(float(1 / np.load(folder / "latents.npy").astype(np.float32).std()), 6))
    scheduler = DDIMScheduler(
        **SCHEDULE,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae.to(memory_format=torch.contiguous_format),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet.to(memory_format=torch.contiguous_format),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (out / "tokenizer" / name).write_bytes((folder / "tokenizer" / name).read_bytes())
    # transformers' own serialization duplicates the other files.
    (out / "tokenizer" / "tokenizer.json").unlink()
    for path in out.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (out / "anemone-defaults.json").write_text(json.dumps(DEFAULTS, indent=1) + "\n")
