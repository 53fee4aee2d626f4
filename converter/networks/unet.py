"""The denoising UNet (diffusers' UNet2DConditionModel; Rombach et al. 2022)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.mil import FP16, FP32, Graph, Tensor
from converter.networks.attention import spatial_transformer
from converter.networks.layers import Layers
from converter.tensors import Tensors


def _per_level(value: Any, levels: int) -> list[int]:
    return [int(v) for v in value] if isinstance(value, list | tuple) else [int(value)] * levels


def _frequencies(channels: int, shift: float) -> NDArray[np.float32]:
    half = channels // 2
    exponents = -math.log(10000) * np.arange(half, dtype=np.float32) / np.float32(half - shift)
    return np.asarray(np.exp(exponents), np.float32).reshape(1, half)


def _time_embedding(layers: Layers, timestep: Tensor, config: dict[str, Any]) -> Tensor:
    """SiLU of the time embedding, fp16 [B, T, 1, 1].

    Angles, sines and cosines are fp32: in fp16 an angle near 1000 rad is known to half a radian, which alone costs
    the UNet 30 dB.
    """
    g, channels = layers.graph, int(config["block_out_channels"][0])
    t = g.expand_dims(g.cast(timestep, FP32, "time.whole"), [1], "time.column")
    shift = float(config.get("freq_shift", 0))
    steps = g.weight("time.frequencies", (1, channels // 2), FP32, lambda: _frequencies(channels, shift))
    angles = g.mul(t, steps, "time.angles")
    waves = [g.unary("sin", angles, "time.sin"), g.unary("cos", angles, "time.cos")]
    if config.get("flip_sin_to_cos", True):
        waves.reverse()
    x = g.cast(g.concat(waves, 1, "time.waves"), FP16, "time.half")
    x = g.expand_dims(x, [2, 3], "time.channels")
    x = layers.silu(layers.linear(x, "time_embedding.linear_1"), "time_embedding.act")
    return layers.silu(layers.linear(x, "time_embedding.linear_2"), "time_embedding.ready")


def unet(
    graph: Graph, tensors: Tensors, config: dict[str, Any], *, batch: int, tokens: int, height: int, width: int
) -> None:
    """sample fp16 [B, 4, height, width], timestep fp16 [B], encoder_hidden_states fp16 [B, D, 1, tokens] ->
    noise_pred fp32 like sample. ``height`` and ``width`` are the latents'.
    """
    layers, g = Layers(graph, tensors), graph
    widths = [int(c) for c in config["block_out_channels"]]
    levels = len(widths)
    groups, epsilon = int(config.get("norm_num_groups", 32)), float(config.get("norm_eps", 1e-5))
    # diffusers' attention_head_dim is the number of heads, for all checkpoints of this class (its own comment says so).
    heads = _per_level(config.get("num_attention_heads") or config["attention_head_dim"], levels)
    depth = _per_level(config.get("transformer_layers_per_block", 1), levels)
    per_block = _per_level(config["layers_per_block"], levels)

    sample = g.input("sample", (batch, int(config["in_channels"]), height, width), FP16)
    timestep = g.input("timestep", (batch,), FP16)
    context = g.input("encoder_hidden_states", (batch, int(config["cross_attention_dim"]), 1, tokens), FP16)
    time = _time_embedding(layers, timestep, config)

    def attend(x: Tensor, path: str, level: int) -> Tensor:
        return spatial_transformer(layers, x, context, path, heads=heads[level], blocks=depth[level], groups=groups)

    x = layers.conv(sample, "conv_in")
    skips = [x]
    for level, kind in enumerate(config["down_block_types"]):
        path = f"down_blocks.{level}"
        for index in range(per_block[level]):
            x = layers.resnet(x, f"{path}.resnets.{index}", time, groups, epsilon)
            if kind == "CrossAttnDownBlock2D":
                x = attend(x, f"{path}.attentions.{index}", level)
            skips.append(x)
        if level < levels - 1:
            x = layers.conv(x, f"{path}.downsamplers.0.conv", stride=2)
            skips.append(x)

    x = layers.resnet(x, "mid_block.resnets.0", time, groups, epsilon)
    x = attend(x, "mid_block.attentions.0", levels - 1)
    x = layers.resnet(x, "mid_block.resnets.1", time, groups, epsilon)

    for block, kind in enumerate(config["up_block_types"]):
        level, path = levels - 1 - block, f"up_blocks.{block}"
        for index in range(per_block[level] + 1):
            x = g.concat([x, skips.pop()], 1, f"{path}.{index}.joined")
            x = layers.resnet(x, f"{path}.resnets.{index}", time, groups, epsilon)
            if kind == "CrossAttnUpBlock2D":
                x = attend(x, f"{path}.attentions.{index}", level)
        if level > 0:
            x = layers.conv(g.upsample(x, f"{path}.upsampled"), f"{path}.upsamplers.0.conv")

    x = layers.silu(layers.group_norm(x, "conv_norm_out", groups, epsilon), "conv_act")
    g.output(layers.conv(x, "conv_out"), "noise_pred")
