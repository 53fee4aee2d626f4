"""Stable Diffusion 1.x and 2.x: one CLIP text encoder and a UNet that takes its states (Rombach et al. 2022)."""

from __future__ import annotations

from converter.families.family import Model
from converter.families.unet_family import UNetFamily, addition_type, has_unet, recognise_unet_family
from converter.networks.registry import TEXT_ENCODER, UNET
from converter.sources.configs import Config
from converter.sources.source import Source

MODELS = {
    "sd1": Model(UNET, (TEXT_ENCODER.name,), context_width=768, latent_channels=4),
    "sd2": Model(UNET, (TEXT_ENCODER.name,), context_width=1024, latent_channels=4),
}
PIPELINES = ("StableDiffusion", "LatentConsistencyModel")


def recognises(checkpoint: Source) -> bool:
    """Return whether its UNet takes nothing of the text but its states."""
    return has_unet(checkpoint) and addition_type(checkpoint) is None


def _name(text: dict[str, Config]) -> str | None:
    if set(text) != {TEXT_ENCODER.component.name}:
        return None
    return "sd1" if text[TEXT_ENCODER.component.name]["hidden_act"] == "quick_gelu" else "sd2"


def recognise(checkpoint: Source, vae: Config | None) -> UNetFamily:
    """Return sd1 or sd2, whose text encoders differ in their activation. Raises CheckpointError."""
    return recognise_unet_family(checkpoint, vae, _name)
