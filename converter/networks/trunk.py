"""The trunk that UNet and ControlNet share: the conditions' embedding, the way down and the middle."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from converter.mil import FP16, FP32, Graph, Tensor
from converter.networks.attention import Prompt, spatial_transformer
from converter.networks.layers import Layers
from converter.networks.unet_shape import UNetShape


def _frequencies(channels: int, shift: float) -> NDArray[np.float32]:
    half = channels // 2
    exponents = -math.log(10000) * np.arange(half, dtype=np.float32) / np.float32(half - shift)
    return np.asarray(np.exp(exponents), np.float32).reshape(1, half)


def _waves(g: Graph, numbers: Tensor, channels: int, shape: UNetShape, name: str) -> Tensor:
    """Return sines and cosines of ``numbers`` [N] at falling frequencies, fp16 [N, channels].

    Computed in fp32: in fp16 an angle near 1000 rad is known to half a radian, which alone costs the UNet 30 dB.
    """
    column = g.expand_dims(g.cast(numbers, FP32, f"{name}.whole"), [1], f"{name}.column")
    shift = shape.frequency_shift
    steps = g.weight(f"{name}.frequencies", (1, channels // 2), FP32, lambda: _frequencies(channels, shift))
    angles = g.mul(column, steps, f"{name}.angles")
    waves = [g.unary("sin", angles, f"{name}.sin"), g.unary("cos", angles, f"{name}.cos")]
    if shape.flip_sin_to_cos:
        waves.reverse()
    return g.cast(g.concat(waves, 1, f"{name}.waves"), FP16, f"{name}.half")


def _channels(g: Graph, x: Tensor, name: str) -> Tensor:
    return g.expand_dims(x, [2, 3], f"{name}.channels")


def conditions(layers: Layers, shape: UNetShape, batch: int) -> Tensor:
    """Return SiLU of the sum of the time embedding and the further conditions', fp16 [B, T, 1, 1].

    Declares the inputs timestep fp16 [B] and, if the model has them, timestep_cond fp16 [B, G] (the guidance
    scale's embedding: LCM), time_ids fp16 [B, N] and text_embeds fp16 [B, P] (SDXL).
    """
    g = layers.graph
    x = _channels(g, _waves(g, g.input("timestep", (batch,), FP16), shape.levels[0].width, shape, "time"), "time")
    if shape.guidance_width:
        guidance = _channels(g, g.input("timestep_cond", (batch, shape.guidance_width), FP16), "guidance")
        x = g.add(x, layers.linear(guidance, "time_embedding.cond_proj", x.shape[1], bias=False), "time.guided")
    x = layers.silu(layers.linear(x, "time_embedding.linear_1", shape.time_width), "time_embedding.act")
    x = layers.linear(x, "time_embedding.linear_2", shape.time_width)
    if (addition := shape.addition) is not None:
        ids = g.input("time_ids", (batch, addition.ids), FP16)
        text = g.input("text_embeds", (batch, addition.text_width), FP16)
        waves = _waves(g, g.reshape(ids, (batch * addition.ids,), "ids.flat"), addition.id_width, shape, "ids")
        waves = g.reshape(waves, (batch, addition.ids * addition.id_width), "ids.rows")
        y = _channels(g, g.concat([text, waves], 1, "ids.joined"), "ids")
        y = layers.silu(layers.linear(y, "add_embedding.linear_1", shape.time_width), "add_embedding.act")
        x = g.add(x, layers.linear(y, "add_embedding.linear_2", shape.time_width), "time_embedding.sum")
    return layers.silu(x, "time_embedding.ready")


class Trunk:
    """The way down and the middle, on one graph."""

    def __init__(self, layers: Layers, shape: UNetShape, time: Tensor, prompt: Prompt) -> None:
        self._layers, self._shape, self._time, self._prompt = layers, shape, time, prompt

    def block(self, x: Tensor, path: str, level: int, index: int, blocks: int) -> Tensor:
        """Apply a resnet, then ``blocks`` transformer blocks, which may be 0."""
        shape, width = self._shape, self._shape.levels[level].width
        x = self._layers.resnet(x, f"{path}.resnets.{index}", width, self._time, shape.groups, shape.epsilon)
        if not blocks:
            return x
        return spatial_transformer(
            self._layers,
            x,
            self._prompt,
            f"{path}.attentions.{index}",
            heads=shape.levels[level].heads,
            blocks=blocks,
            groups=shape.groups,
        )

    def down(self, x: Tensor) -> list[Tensor]:
        """Return every tensor that the way up takes (skip connections): ``x`` first, the lowest level's last."""
        skips = [x]
        for number, level in enumerate(self._shape.levels):
            path = f"down_blocks.{number}"
            for index, blocks in enumerate(level.down):
                x = self.block(x, path, number, index, blocks)
                skips.append(x)
            if number < len(self._shape.levels) - 1:
                x = self._layers.conv(x, f"{path}.downsamplers.0.conv", level.width, 3, stride=2)
                skips.append(x)
        return skips

    def middle(self, x: Tensor) -> Tensor:
        """Apply the middle block."""
        lowest, blocks = len(self._shape.levels) - 1, self._shape.middle
        if blocks is None:
            return x
        x = self.block(x, "mid_block", lowest, 0, blocks)
        return self.block(x, "mid_block", lowest, 1, 0) if blocks else x
