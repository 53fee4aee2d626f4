"""Stable Diffusion 1.x's safety checker: an image's CLIP embedding against those of seventeen concepts.

diffusers' StableDiffusionSafetyChecker, a CLIP vision tower (ViT-L/14; Radford et al. 2021) whose embedding is compared
with each concept by cosine. Inputs and outputs have the names and types of Apple's package; Apple's blackens images
with non_zero and scatter, which have dynamic shapes and leave the Neural Engine; this one multiplies by 0 or 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import CheckpointError
from converter.mil import FP16, FP32, Tensor
from converter.networks.clip_vision import PROJECTION, vision_config, vision_tower
from converter.networks.layers import Layers
from converter.sources.configs import Config, read_config
from converter.sources.tensors import expect_shape

_WHERE = "safety_checker/config.json"
#: Added to every concept's score if a concept that needs special care was found.
_CARE = 0.01
#: diffusers rounds a score to three decimals before it compares it with 0; scores above this round to more than 0.
_ABOVE = 0.0005
#: The least squared length that torch.nn.functional.normalize divides by.
_LEAST = 1e-24


def _vision(config: Config) -> Config:
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        raise CheckpointError(f"{_WHERE} has no vision_config; it must have one with the size of CLIP's vision tower")
    return vision_config(f"{_WHERE} (vision_config)", vision)


def _margins(layers: Layers, embedding: Tensor) -> Tensor:
    """Return each concept's cosine less its threshold, fp32 [1, concepts + special cares, 1, 1].

    In fp32: cosines are about 0.2, where fp16 has steps of 0.0001, and 0.001 decides.
    """
    g, tensors = layers.graph, layers.tensors
    names, width = ("concept_embeds", "special_care_embeds"), embedding.shape[1]
    counts = [math.prod(tensors.shape(f"{name}_weights")) for name in names]
    for name, number in zip(names, counts, strict=True):
        expect_shape(tensors, name, (number, width))  # each concept has one threshold
    count = sum(counts)

    def directions() -> NDArray[np.float32]:
        rows: NDArray[np.float32] = np.concatenate([tensors.array(name) for name in names]).astype(np.float32)
        # The image's embedding is divided by its root mean square, which is its length divided by this factor.
        lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) * width**0.5
        scaled: NDArray[np.float32] = (rows / lengths).astype(np.float32)
        return scaled.reshape(count, width, 1, 1)

    def thresholds() -> NDArray[np.float32]:
        rows: NDArray[Any] = np.concatenate([tensors.array(f"{name}_weights") for name in names])
        return rows.astype(np.float32).reshape(1, count, 1, 1)

    x = g.cast(embedding, FP32, "embedding")
    square = g.reduce_mean(g.unary("square", x, "embedding.square"), [1], "embedding.mean_square")
    rms = g.unary("sqrt", g.add(square, _LEAST / width, "embedding.floored"), "embedding.size")
    x = g.real_div(x, rms, "direction")
    cosines = g.conv(x, g.weight("concepts", (count, width, 1, 1), FP32, directions), None, "cosines")
    return g.sub(cosines, g.weight("thresholds", (1, count, 1, 1), FP32, thresholds), "margins")


def _any_above(layers: Layers, margins: Tensor, name: str) -> Tensor:
    """Return 1 where any of ``margins`` [1, C, 1, 1] is above 0 to three decimals and 0 otherwise, fp32 [1, 1, 1, 1]."""
    g = layers.graph
    return g.cast(g.greater(g.reduce_max(margins, [1], f"{name}.most"), _ABOVE, f"{name}.above"), FP32, name)


def safety_checker(layers: Layers, config: Config, *, height: int, width: int) -> None:
    """Write the safety checker, which blackens an image if it finds one of the checkpoint's concepts.

    clip_input fp16 [1, 3, S, S] (S 224, with CLIP's mean and deviation), images fp16 [1, height, width, 3] and
    adjustment fp16 [1] -> filtered_images fp32 like images, has_nsfw_concepts fp32 [1, 1, 1, 1] (1 or 0) and
    concept_scores fp32 [1, 17] (cosine less threshold, plus 0.01 if a special care was found).

    The decision is that of diffusers' ``forward``: a score counts if it is above 0 after rounding to three decimals.
    ``adjustment`` (0 there) is added to the special cares' scores, as in Apple's package and ``forward_onnx``: a greater
    one finds more. Raises CheckpointError if the configuration is unsupported.
    """
    g, vision = layers.graph, _vision(config)
    width_in_clip = read_config(_WHERE, config, PROJECTION)["projection_dim"]
    embedding, _ = vision_tower(layers, "clip_input", "vision_model.vision_model.", vision, width_in_clip)
    margins = _margins(layers, embedding)
    images = g.input("images", (1, height, width, 3), FP16)
    adjustment = g.cast(g.input("adjustment", (1,), FP16), FP32, "adjustment.wide")
    concepts, count = math.prod(layers.tensors.shape("concept_embeds_weights")), margins.shape[1]
    cares = g.add(g.slice(margins, 1, concepts, count, "cares"), adjustment, "cares.adjusted")
    bonus = g.mul(_any_above(layers, cares, "care"), _CARE, "care.added")
    scores = g.add(g.slice(margins, 1, 0, concepts, "concepts.margins"), bonus, "scores")
    unsafe = _any_above(layers, scores, "unsafe")
    factor = g.cast(g.sub(g.constant("one", np.float32(1)), unsafe, "safe"), FP16, "kept")
    g.output(g.mul(images, factor, "filtered"), "filtered_images")
    g.output(unsafe, "has_nsfw_concepts")
    g.output(g.reshape(scores, (1, concepts), "scores.row"), "concept_scores")
