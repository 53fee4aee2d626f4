"""Both halves of the autoencoder (diffusers' AutoencoderKL; Rombach et al. 2022)."""

from __future__ import annotations

from typing import Any

from converter.mil import FP16, Graph, Tensor
from converter.networks.attention import Projections, diffusers_projections, split_einsum
from converter.networks.layers import Layers
from converter.tensors import Tensors

_EPSILON = 1e-6


def _attention(layers: Layers, x: Tensor, path: str, groups: int) -> Tensor:
    """Single-head self attention over a feature map, added to it."""
    g = layers.graph
    b, c, h, w = x.shape
    y = g.reshape(layers.group_norm(x, f"{path}.group_norm", groups, _EPSILON), (b, c, 1, h * w), f"{path}.flat")
    names = diffusers_projections(path)
    if not layers.has(f"{names.query}.weight"):  # the spelling of checkpoints saved before diffusers 0.15
        names = Projections(*(f"{path}.{p}" for p in ("query", "key", "value", "proj_attn")))
    y = split_einsum(layers, y, y, names, path, heads=1)
    return g.add(g.reshape(y, x.shape, f"{path}.map"), x, f"{path}.sum")


def _middle(layers: Layers, x: Tensor, path: str, config: dict[str, Any]) -> Tensor:
    groups = int(config.get("norm_num_groups", 32))
    x = layers.resnet(x, f"{path}.resnets.0", None, groups, _EPSILON)
    if config.get("mid_block_add_attention", True):
        x = _attention(layers, x, f"{path}.attentions.0", groups)
    return layers.resnet(x, f"{path}.resnets.1", None, groups, _EPSILON)


def vae_decoder(graph: Graph, tensors: Tensors, config: dict[str, Any], height: int, width: int) -> None:
    """z fp16 [1, L, height/f, width/f], already divided by the scaling factor -> image fp32 [1, 3, height, width]."""
    layers = Layers(graph, tensors)
    groups, levels = int(config.get("norm_num_groups", 32)), len(config["block_out_channels"])
    factor = 2 ** (levels - 1)
    x = graph.input("z", (1, int(config["latent_channels"]), height // factor, width // factor), FP16)
    if config.get("use_post_quant_conv", True):
        x = layers.conv(x, "post_quant_conv")
    x = _middle(layers, layers.conv(x, "decoder.conv_in"), "decoder.mid_block", config)
    for level in range(levels):
        path = f"decoder.up_blocks.{level}"
        for index in range(int(config["layers_per_block"]) + 1):
            x = layers.resnet(x, f"{path}.resnets.{index}", None, groups, _EPSILON)
        if level < levels - 1:
            x = layers.conv(graph.upsample(x, f"{path}.upsampled"), f"{path}.upsamplers.0.conv")
    x = layers.silu(layers.group_norm(x, "decoder.conv_norm_out", groups, _EPSILON), "decoder.act")
    graph.output(layers.conv(x, "decoder.conv_out"), "image")


def vae_encoder(graph: Graph, tensors: Tensors, config: dict[str, Any], height: int, width: int) -> None:
    """x fp16 [1, 3, height, width] in [-1, 1] -> latent fp32 [1, 2L, height/f, width/f]: mean, then log variance."""
    layers = Layers(graph, tensors)
    groups, levels = int(config.get("norm_num_groups", 32)), len(config["block_out_channels"])
    x = layers.conv(graph.input("x", (1, 3, height, width), FP16), "encoder.conv_in")
    for level in range(levels):
        path = f"encoder.down_blocks.{level}"
        for index in range(int(config["layers_per_block"])):
            x = layers.resnet(x, f"{path}.resnets.{index}", None, groups, _EPSILON)
        if level < levels - 1:
            padded = graph.pad_bottom_right(x, f"{path}.padded")
            x = layers.conv(padded, f"{path}.downsamplers.0.conv", stride=2, pad=0)
    x = _middle(layers, x, "encoder.mid_block", config)
    x = layers.silu(layers.group_norm(x, "encoder.conv_norm_out", groups, _EPSILON), "encoder.act")
    x = layers.conv(x, "encoder.conv_out")
    if config.get("use_quant_conv", True):
        x = layers.conv(x, "quant_conv")
    graph.output(x, "latent")
