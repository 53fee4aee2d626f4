"""ControlNet: the residuals a UNet adds to its own for an image of edges, depth or a pose (Zhang et al. 2023)."""

from __future__ import annotations

import itertools
from typing import Any

from converter.mil import FP16
from converter.networks.layers import Layers
from converter.networks.prompt import PromptStates
from converter.networks.trunk import Trunk, conditions
from converter.networks.unet_shape import UNetShape, unet_shape
from converter.sources.component_kinds import CONTROLNET
from converter.sources.config_tables import CONTROLNET as KEYS
from converter.sources.configs import expect

#: The name of a ControlNet's config.json in errors.
WHERE = "the ControlNet's config.json"
#: The condition is an image; its embedding halves the size three times, to the latents'.
_FACTOR = 8


def controlnet_shape(config: dict[str, Any], pooled_width: int) -> UNetShape:
    """Return the shape of a ControlNet; ``pooled_width`` as in `unet_shape`. Raises CheckpointError."""
    expect(WHERE, config, "_class_name", CONTROLNET.classes, *CONTROLNET.classes)
    return unet_shape(config, WHERE, pooled_width=pooled_width, table=KEYS)


def controlnet(layers: Layers, shape: UNetShape, *, batch: int, tokens: int, height: int, width: int) -> None:
    """Write the ControlNet (diffusers' ControlNetModel); ``height`` and ``width`` are the latents'.

    Inputs: the UNet's, and controlnet_cond fp16 [B, 3, 8 height, 8 width] in [0, 1]. Outputs:
    additional_residual_0, ... fp32 for every tensor of the way down and the middle, unscaled.
    """
    g = layers.graph
    sample = g.input("sample", (batch, shape.in_channels, height, width), FP16)
    time = conditions(layers, shape, batch)
    context = g.input("encoder_hidden_states", (batch, shape.context_width, 1, tokens), FP16)
    path = "controlnet_cond_embedding"
    image = g.input("controlnet_cond", (batch, 3, _FACTOR * height, _FACTOR * width), FP16)
    first, *_ = widths = shape.condition_widths
    y = layers.silu(layers.conv(image, f"{path}.conv_in", first, 3), f"{path}.act_in")
    for index, out in enumerate(out for pair in itertools.pairwise(widths) for out in pair):
        # Every second convolution halves the size.
        y = layers.silu(layers.conv(y, f"{path}.blocks.{index}", out, 3, stride=1 + index % 2), f"{path}.act_{index}")
    lowest = shape.levels[0].width
    y = layers.conv(y, f"{path}.conv_out", lowest, 3)

    trunk = Trunk(layers, shape, time, PromptStates(context))
    skips = trunk.down(g.add(layers.conv(sample, "conv_in", lowest, 3), y, "conditioned"))
    for index, tensor in enumerate(skips):
        residual = layers.conv(tensor, f"controlnet_down_blocks.{index}", tensor.shape[1], 1)
        g.output(residual, f"additional_residual_{index}")
    x = trunk.middle(skips[-1])
    g.output(layers.conv(x, "controlnet_mid_block", x.shape[1], 1), f"additional_residual_{len(skips)}")
