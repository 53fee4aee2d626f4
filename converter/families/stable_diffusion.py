"""Stable Diffusion 1.x and 2.x: one CLIP text encoder and a UNet that takes its states (Rombach et al. 2022)."""

from __future__ import annotations

from converter.families.family import Model
from converter.families.unet_family import UNetFamily, addition_type, has_unet, recognize_unet_family
from converter.networks.registry import TEXT_ENCODER, UNET
from converter.sources.configs import Config
from converter.sources.source import Source

MODELS = {
    "sd1": Model(UNET, (TEXT_ENCODER.name,), context_width=768, latent_channels=4),
    "sd2": Model(UNET, (TEXT_ENCODER.name,), context_width=1024, latent_channels=4),
}
PIPELINES = ("StableDiffusion", "LatentConsistencyModel")


def recognizes(checkpoint: Source) -> bool:
    """Return whether the UNet takes the text encoder's states only."""
    return has_unet(checkpoint) and addition_type(checkpoint) is None


def _name(text: dict[str, Config]) -> str | None:
    if set(text) != {TEXT_ENCODER.component.name}:
        return None
    return "sd1" if text[TEXT_ENCODER.component.name]["hidden_act"] == "quick_gelu" else "sd2"


def recognize(checkpoint: Source, vae: Config | None) -> UNetFamily:
    """Return sd1 or sd2, by the text encoder's activation. Raises CheckpointError."""
    return recognize_unet_family(checkpoint, vae, _name)
