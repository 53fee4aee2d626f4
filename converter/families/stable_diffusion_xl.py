"""Stable Diffusion XL and its refiner: a UNet that also takes pooled text, sizes and crops (Podell et al. 2023)."""

from __future__ import annotations

from converter.errors import CheckpointError
from converter.families.family import Model
from converter.families.unet_family import UNetFamily, addition_type, has_unet, recognize_unet_family
from converter.networks.registry import TEXT_ENCODER, TEXT_ENCODER_2, UNET
from converter.sources.configs import Config, is_projected
from converter.sources.source import Source

MODELS = {
    "sdxl": Model(UNET, (TEXT_ENCODER.name, TEXT_ENCODER_2.name), context_width=2048, latent_channels=4),
    "sdxl_refiner": Model(UNET, (TEXT_ENCODER_2.name,), context_width=1280, latent_channels=4),
}
PIPELINES = ("StableDiffusionXL",)


def recognizes(checkpoint: Source) -> bool:
    """Return whether the UNet takes further conditions besides the text encoders' states."""
    return has_unet(checkpoint) and addition_type(checkpoint) is not None


def _name(text: dict[str, Config]) -> str | None:
    second = TEXT_ENCODER_2.component.name
    if second not in text:
        return None
    if not is_projected(text[second]):
        raise CheckpointError(
            f"{second}/config.json has architectures = {text[second]['architectures']}; SDXL's second text encoder is a "
            "CLIPTextModelWithProjection"
        )
    return next(name for name, model in MODELS.items() if model.text_encoders == tuple(text))


def recognize(checkpoint: Source, vae: Config | None) -> UNetFamily:
    """Return sdxl, or sdxl_refiner if only the second text encoder is there. Raises CheckpointError."""
    return recognize_unet_family(checkpoint, vae, _name)
