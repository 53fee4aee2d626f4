"""Inputs and outputs of networks: names, descriptions, and random inputs for verification."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.runtime import Feature
from converter.sources.config_tables import TEXT_ENCODER

Arrays = dict[str, NDArray[Any]]
Draw = Callable[[np.random.Generator, tuple[int, ...], dict[str, Any]], NDArray[Any]]
#: Prefix of the numbered residuals: outputs of ControlNets, inputs of UNets.
RESIDUAL = "additional_residual_"
#: Prefix of the keys and values of an IP-Adapter's image: outputs of IP-Adapters, inputs of UNets.
IMAGE = "image_"
#: Outputs of text encoders that a skip of layers has instead; see `skipping`.
STATES = ("last_hidden_state", "hidden_embeds")
#: The description of what a chunk of a network hands over to a later one.
HANDED_OVER = "A value that a chunk of the network hands over to a later one"
_TIMESTEP = 801.0
_SIZES = (0, 512, 768, 1024)


def _normal(rng: np.random.Generator, shape: tuple[int, ...], config: dict[str, Any]) -> NDArray[Any]:
    return rng.standard_normal(shape)


def _prompt(rng: np.random.Generator, shape: tuple[int, ...], config: dict[str, Any]) -> NDArray[Any]:
    """Draw a prompt of a dozen words, its end and padding; in old checkpoints (id 2) the end is the greatest id."""
    last = config.get("vocab_size", TEXT_ENCODER["vocab_size"].default) - 1
    end = config.get("eos_token_id", last)
    end = last if end == 2 else end
    ids = np.full((1, shape[1]), end)
    ids[0, 0] = end - 1
    ids[0, 1:13] = rng.integers(3, last - 2, 12)
    return ids


@dataclass(frozen=True)
class _FeatureKind:
    about: str
    draw: Draw = _normal


_FEATURES = {
    "input_ids": _FeatureKind("Token ids of the prompt", _prompt),
    "last_hidden_state": _FeatureKind("A state for every token"),
    "hidden_embeds": _FeatureKind("A state for every token, before the last layer"),
    "pooled_outputs": _FeatureKind("The state at the end of the prompt"),
    "sample": _FeatureKind("Noisy latents"),
    "timestep": _FeatureKind(
        "The timestep of each image of the batch", lambda rng, shape, config: np.full(shape, _TIMESTEP)
    ),
    "timestep_cond": _FeatureKind("Embedding of the guidance scale"),
    "time_ids": _FeatureKind(
        "Original size, crop and target size of each image", lambda rng, shape, config: rng.choice(_SIZES, shape)
    ),
    "text_embeds": _FeatureKind("Pooled states of the prompt"),
    "encoder_hidden_states": _FeatureKind("Prompt states, channels first"),
    "noise_pred": _FeatureKind("The prediction: noise, v or the denoised latents (see prediction_type)"),
    "z": _FeatureKind("Latents, divided by the scaling factor"),
    "image": _FeatureKind("The image, in [-1, 1]"),
    "x": _FeatureKind("The image, in [-1, 1]", lambda rng, shape, config: rng.uniform(-1, 1, shape)),
    "latent": _FeatureKind("Mean, then log variance, of the latents"),
    "controlnet_cond": _FeatureKind(
        "The image to follow, in [0, 1]", lambda rng, shape, config: rng.uniform(0, 1, shape)
    ),
    "pixels": _FeatureKind("The tile, RGB in [0, 1]", lambda rng, shape, config: rng.uniform(0, 1, shape)),
    "enlarged": _FeatureKind("The tile enlarged, RGB in about [0, 1]"),
    "clip_input": _FeatureKind("The image at CLIP's size, with CLIP's mean and deviation"),
    "pixel_values": _FeatureKind("The image at CLIP's size, with CLIP's mean and deviation"),
    "image_embeds": _FeatureKind("The image in the space that CLIP compares images and texts in"),
    "image_states": _FeatureKind("A state for every patch of the image, before the last layer"),
    "image_features": _FeatureKind("The image encoder's embedding or states of the image"),
    "images": _FeatureKind("The image, channels last"),
    "adjustment": _FeatureKind("A number added to the scores of concepts that need special care; usually 0"),
    "filtered_images": _FeatureKind("The image, black where a concept was found in it"),
    "has_nsfw_concepts": _FeatureKind("1 where a concept was found, otherwise 0"),
    "concept_scores": _FeatureKind("How far each concept is above its threshold"),
}


def skipping(states: str, clip_skip: int) -> str:
    """Return the name of a text encoder's output in place of ``states`` (one of STATES) at a clip skip; 1 skips no layer."""
    return states if clip_skip == 1 else f"{states}_{clip_skip}"


def describe(feature: str) -> str:
    """Return the description of an input or output in its package."""
    if feature.startswith(RESIDUAL):
        return f"A ControlNet's residual for the UNet's tensor {feature.removeprefix(RESIDUAL)}"
    side, _, number = feature.rpartition("_")
    side, whose = side.removeprefix(IMAGE), "image" if side.startswith(IMAGE) else "prompt"
    if side in ("keys", "values"):
        return f"{side.capitalize()} of the {whose} for the UNet's spatial transformer {number}"
    if side in STATES:
        return f"{_FEATURES[side].about}, with a clip skip of {number}"
    return _FEATURES[feature].about


def random_inputs(features: Mapping[str, Feature], config: dict[str, Any], seed: int = 0) -> Arrays:
    """Draw inputs like a network's real ones: normal latents and states, sizes in time_ids, a prompt of token ids.

    ``config`` is the network's config.json; a text encoder's gives the vocabulary's size.
    """
    rng = np.random.default_rng(seed)
    inputs: Arrays = {}
    for name, feature in features.items():
        draw = _FEATURES[name].draw if name in _FEATURES else _normal
        inputs[name] = draw(rng, feature.shape, config).astype(feature.dtype)
    return inputs
