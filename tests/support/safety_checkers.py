"""Tiny safety checkers with random weights and thresholds of the test's choice."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig

#: Pixels of a side that it takes; OpenAI's takes 224.
SIDE = 28
#: Thresholds for cosines, which are -1 to 1: all images are above the first, none above the second.
ALWAYS, NEVER = -1.1, 1.1
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 7,
}


def tiny_checker(threshold: float) -> StableDiffusionSafetyChecker:
    """Return a checker whose first concept has this threshold, and whose others nothing is above."""
    torch.manual_seed(7)
    module = StableDiffusionSafetyChecker(CLIPConfig(projection_dim=24, vision_config=_VISION)).eval()
    with torch.no_grad():
        for embeds in (module.concept_embeds, module.special_care_embeds):
            torch.nn.init.normal_(embeds, std=3)
        module.concept_embeds_weights.fill_(NEVER)
        module.special_care_embeds_weights.fill_(NEVER)
        module.concept_embeds_weights[0] = threshold
    return module


def write_checker(folder: Path, threshold: float) -> str:
    """Save such a checker in fp16 and return its folder, as conversion takes it."""
    tiny_checker(threshold).half().save_pretrained(folder, safe_serialization=True)
    return str(folder)
