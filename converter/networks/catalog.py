"""Which function writes which network, what its package says of itself, and which weights it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converter.families.family import Family, controlnet_shape
from converter.folder import kind
from converter.mil import Graph, Target, Weights
from converter.networks.clip import text_encoder
from converter.networks.controlnet import controlnet
from converter.networks.layers import Attention, Layers
from converter.networks.prompt import unet_prompt
from converter.networks.safety_checker import safety_checker
from converter.networks.taesd import taesd_decoder
from converter.networks.unet import unet
from converter.networks.vae import vae_decoder, vae_encoder
from converter.sources.tensors import Tensors

_ABOUT = {
    "text_encoder": "CLIP text encoder of Stable Diffusion",
    "text_encoder_2": "Second CLIP text encoder of Stable Diffusion XL",
    "unet": "Denoising UNet of Stable Diffusion",
    "unet_prompt": "What the UNet of Stable Diffusion looks at in a prompt",
    "vae_decoder": "Autoencoder of Stable Diffusion: latents to a picture",
    "vae_encoder": "Autoencoder of Stable Diffusion: a picture to latents",
    "preview_decoder": "Tiny autoencoder of Stable Diffusion: latents to a preview",
    "controlnet": "ControlNet of Stable Diffusion",
    "safety_checker": "Safety checker of Stable Diffusion",
}
_FEATURES = {
    "input_ids": "Token ids of the prompt",
    "last_hidden_state": "A state for every token",
    "hidden_embeds": "A state for every token, before the last layer",
    "pooled_outputs": "The state at the end of the prompt",
    "sample": "Noisy latents",
    "timestep": "The timestep of each picture of the batch",
    "timestep_cond": "Embedding of the guidance scale",
    "time_ids": "Original size, crop and target size of each picture",
    "text_embeds": "Pooled states of the prompt",
    "encoder_hidden_states": "Prompt states, channels first",
    "noise_pred": "What the model predicts of the noise (see prediction_type)",
    "z": "Latents, divided by the scaling factor",
    "image": "The picture, in [-1, 1]",
    "x": "The picture, in [-1, 1]",
    "latent": "Mean, then log variance, of the latents",
    "controlnet_cond": "The picture to follow, in [0, 1]",
    "clip_input": "The picture at CLIP's size, with CLIP's mean and deviation",
    "images": "The picture, channels last",
    "adjustment": "What is added to the scores of concepts that need special care; 0 usually",
    "filtered_images": "The picture, black where a concept was found in it",
    "has_nsfw_concepts": "1 where a concept was found, otherwise 0",
    "concept_scores": "How far each concept is above its threshold",
}
_RESIDUAL = "additional_residual_"


@dataclass(frozen=True)
class Variant:
    """One form of a network that shares the others' weights.

    width, height: the pictures' size in pixels.
    batch: rows at once.
    tokens: how long the prompt's states are.
    control: whether the UNet takes a ControlNet's residuals.
    projected: whether the UNet takes the prompt's keys and values, not its states.
    """

    width: int
    height: int
    batch: int
    tokens: int
    attention: Attention
    control: bool = False
    projected: bool = False


def about(network: str) -> str:
    """A package's short description."""
    return _ABOUT[kind(network)]


def describe(feature: str) -> str:
    """What a package says of an input or output."""
    if feature.startswith(_RESIDUAL):
        return f"What a ControlNet adds to the UNet's tensor {feature.removeprefix(_RESIDUAL)}"
    side, _, number = feature.rpartition("_")
    if side in ("keys", "values"):
        return f"{side.capitalize()} of the prompt for the UNet's spatial transformer {number}"
    return _FEATURES[feature]


def component(network: str) -> str:
    """The part of a checkpoint a network's weights and configuration come from."""
    return {"vae_decoder": "vae", "vae_encoder": "vae", "unet_prompt": "unet"}.get(network, network)


def write_graph(
    network: str,
    tensors: Tensors,
    config: dict[str, Any],
    family: Family,
    variant: Variant,
    weights: Weights,
    target: Target,
) -> Graph:
    """The network's program in one variant; its weights go to ``weights`` where they are not there yet."""
    graph = Graph(weights, target)
    layers = Layers(graph, tensors, variant.attention)
    size = {"height": variant.height, "width": variant.width}
    latents = {side: pixels // family.vae_scale_factor for side, pixels in size.items()}
    rows = {"batch": variant.batch, "tokens": variant.tokens}
    match kind(network):
        case "text_encoder" | "text_encoder_2":
            text_encoder(layers, config, penultimate=family.name.startswith("sdxl"))
        case "unet":
            unet(layers, family.unet, **rows, **latents, control=variant.control, projected=variant.projected)
        case "unet_prompt":
            unet_prompt(layers, family.unet, **rows)
        case "controlnet":
            controlnet(layers, controlnet_shape(config, family), **rows, **latents)
        case "vae_decoder":
            vae_decoder(layers, config, **size)
        case "vae_encoder":
            vae_encoder(layers, config, **size)
        case "preview_decoder":
            taesd_decoder(layers, config, **size)
        case "safety_checker":
            safety_checker(layers, config, **size)
    return graph
