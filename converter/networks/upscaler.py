"""Upscaling networks: RRDB (ESRGAN, Wang et al. 2018; Real-ESRGAN, Wang et al. 2021) and the compact SRVGGNetCompact.

A package takes tiles of one size, so that it may run on the Neural Engine, which takes no flexible shapes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.mil import FP16, Tensor
from converter.networks.layers import Layers
from converter.sources.tensors import expect_shape

_COLORS = 3
#: The slope of leaky ReLU, and the share of a dense block's result that is added to its input, in all RRDB networks.
_SLOPE, _SHARE = 0.2, 0.2


def _leaky(layers: Layers, x: Tensor, path: str, width: int) -> Tensor:
    return layers.graph.leaky_relu(layers.conv(x, path, width, 3), _SLOPE, f"{path}.act")


def _dense_block(layers: Layers, x: Tensor, path: str, growth: int) -> Tensor:
    """Add to ``x`` what five convolutions make of it, each of which sees all before it (ResidualDenseBlock)."""
    g, width, seen = layers.graph, x.shape[1], x
    for number in range(1, 5):
        new = _leaky(layers, seen, f"{path}.conv{number}", growth)
        seen = g.concat([seen, new], 1, f"{path}.seen{number}")

    def less(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values * np.float32(_SHARE)

    last = f"{path}.conv5"
    weight = layers.weight(f"{last}.weight", (width, seen.shape[1], 3, 3), less)
    added = g.conv(seen, weight, layers.weight(f"{last}.bias", (width,), less), last, pad=1)
    return g.add(x, added, f"{path}.sum")


def _unshuffled(layers: Layers, x: Tensor, path: str, width: int, times: int) -> Tensor:
    """Apply the convolution at ``path``, which follows a pixel unshuffle, as one convolution with a larger step.

    Its 3x3 pixels are blocks of ``times`` x ``times``; the unshuffle's program would need tensors of rank 7, which leave
    the Neural Engine.
    """
    name, stored = f"{path}.weight", (width, _COLORS * times**2, 3, 3)
    expect_shape(layers.tensors, name, stored)
    side = 3 * times

    def values() -> NDArray[np.float16]:
        blocks = layers.tensors.array(name).reshape(width, _COLORS, times, times, 3, 3)
        return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(width, _COLORS, side, side).astype(np.float16)

    weight = layers.graph.weight(name, (width, _COLORS, side, side), FP16, values)
    bias = layers.weight(f"{path}.bias", (width,))
    return layers.graph.conv(x, weight, bias, path, stride=times, pad=times)


def _rrdb(layers: Layers, x: Tensor, config: dict[str, Any]) -> Tensor:
    g, width = layers.graph, config["width"]
    first = _unshuffled(layers, x, "conv_first", width, config["unshuffle"])
    h = first
    for block in range(config["blocks"]):
        before = h
        for dense in (1, 2, 3):
            h = _dense_block(layers, h, f"body.{block}.rdb{dense}", config["growth"])
        h = g.add(before, g.mul(h, _SHARE, f"body.{block}.less"), f"body.{block}.sum")
    h = g.add(first, layers.conv(h, "conv_body", width, 3), "body.sum")
    for number in range(1, config["doublings"] + 1):
        h = _leaky(layers, g.upsample(h, f"conv_up{number}.doubled"), f"conv_up{number}", width)
    return layers.conv(_leaky(layers, h, "conv_hr", width), "conv_last", _COLORS, 3)


def _compact(layers: Layers, x: Tensor, config: dict[str, Any]) -> Tensor:
    g, width, scale = layers.graph, config["width"], config["scale"]
    h, last = x, 2 * config["convolutions"] + 2
    for index in range(0, last, 2):
        h = layers.conv(h, f"body.{index}", width, 3)
        h = g.prelu(h, layers.weight(f"body.{index + 1}.weight", (width,)), f"body.{index + 1}")
    h = layers.conv(h, f"body.{last}", _COLORS * scale**2, 3)
    if scale == 1:
        return g.add(h, x, "sum")
    return g.add(g.pixel_shuffle(h, scale, "shuffled"), g.upsample(x, "repeated", scale), "sum")


def upscaler(layers: Layers, config: dict[str, Any], *, height: int, width: int) -> None:
    """Write the network: pixels fp16 [1, 3, height, width], RGB in [0, 1] -> enlarged fp32 [1, 3, s * height, s * width].

    ``config`` is an `UpscalerFile`'s. The result may leave [0, 1] a little.
    """
    x = layers.graph.input("pixels", (1, _COLORS, height, width), FP16)
    write = {"rrdb": _rrdb, "compact": _compact}[config["architecture"]]
    layers.graph.output(write(layers, x, config), "enlarged")
