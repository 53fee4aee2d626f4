"""The tiny autoencoder's decoder (diffusers' AutoencoderTiny: TAESD and TAESDXL), for previews while denoising.

https://github.com/madebyollin/taesd: convolutions and ReLU alone, a hundredth of the work of the autoencoder it was
distilled from. It takes the denoiser's latents, not divided by the scaling factor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from converter.errors import CheckpointError
from converter.mil import FP16, Tensor
from converter.networks.layers import Layers
from converter.sources.configs import COUNT_LIST, WHOLE, WIDTHS, Key, Table, read_config

_WHERE = "the tiny autoencoder's config.json"
#: Settings that change the decoder's graph, each with its only accepted value, which is also diffusers' default.
_FIXED: dict[str, Any] = {
    "act_fn": "relu",
    "out_channels": 3,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
    "upsample_fn": "nearest",
    "upsampling_scaling_factor": 2,
}
_KEYS: Table = {
    **{name: Key("only", value, accepted=(value,)) for name, value in _FIXED.items()},
    "decoder_block_out_channels": Key("read", (64, 64, 64, 64), WIDTHS),
    "num_decoder_blocks": Key("read", (3, 3, 3, 1), COUNT_LIST),
    "latent_channels": Key("read", 4, WHOLE),
}
#: The decoder first squeezes latents smoothly into (-3, 3), for any ``latent_magnitude`` (diffusers, DecoderTiny).
_BOUND = 3


def _levels(config: dict[str, Any]) -> tuple[int, list[int]]:
    """Return the channels, which are the same at all levels, and each level's number of residual blocks, lowest first."""
    widths, blocks = list(config["decoder_block_out_channels"]), list(config["num_decoder_blocks"])
    if len(set(widths)) != 1:
        raise CheckpointError(
            f"{_WHERE} has decoder_block_out_channels = {widths}; the same width for all levels is accepted"
        )
    if len(blocks) != len(widths):
        raise CheckpointError(
            f"{_WHERE} has num_decoder_blocks for {len(blocks)} levels and decoder_block_out_channels for {len(widths)}; "
            "one of each for every level is accepted"
        )
    return widths[0], blocks


def _relu(layers: Layers, x: Tensor, name: str) -> Tensor:
    return layers.graph.unary("relu", x, name)


def _block(layers: Layers, x: Tensor, path: str) -> Tensor:
    """Add three convolutions to their input (AutoencoderTinyBlock; all widths are equal, so it has no projection)."""
    width = x.shape[1]
    h = _relu(layers, layers.conv(x, f"{path}.conv.0", width, 3), f"{path}.act0")
    h = _relu(layers, layers.conv(h, f"{path}.conv.2", width, 3), f"{path}.act2")
    h = layers.conv(h, f"{path}.conv.4", width, 3)
    return _relu(layers, layers.graph.add(h, x, f"{path}.sum"), f"{path}.fuse")


def _image(layers: Layers, x: Tensor, path: str) -> Tensor:
    """Apply the last convolution with its output [0, 1] scaled to [-1, 1] in the weights; doubling them is exact."""
    weight = layers.weight(f"{path}.weight", (3, x.shape[1], 3, 3), lambda w: w * np.float32(2))
    bias = layers.weight(f"{path}.bias", (3,), lambda b: b * np.float32(2) - np.float32(1))
    return layers.graph.conv(x, weight, bias, path, pad=1)


def taesd_decoder(layers: Layers, config: dict[str, Any], *, height: int, width: int) -> None:
    """Write the decoder: z fp16 [1, L, height/f, width/f], the denoiser's -> image fp32 [1, 3, height, width], about [-1, 1].

    f is 2 ** (levels - 1): 8. ``latent_magnitude`` and ``latent_shift`` matter for storing latents as bytes, not for
    decoding. Raises CheckpointError naming the unsupported setting.
    """
    config = read_config(_WHERE, config, _KEYS)
    g, (channels, levels) = layers.graph, _levels(config)
    factor = 2 ** (len(levels) - 1)
    z = g.input("z", (1, config["latent_channels"], height // factor, width // factor), FP16)
    x = g.mul(g.unary("tanh", g.mul(z, 1 / _BOUND, "z.small"), "z.bounded"), _BOUND, "z.clamped")
    x = _relu(layers, layers.conv(x, "decoder.layers.0", channels, 3), "decoder.layers.1")
    index = 2
    for level, blocks in enumerate(levels):
        for _ in range(blocks):
            x = _block(layers, x, f"decoder.layers.{index}")
            index += 1
        if level < len(levels) - 1:
            x = g.upsample(x, f"decoder.layers.{index}")
            x = layers.conv(x, f"decoder.layers.{index + 1}", channels, 3, bias=False)
            index += 2
    g.output(_image(layers, x, f"decoder.layers.{index}"), "image")
