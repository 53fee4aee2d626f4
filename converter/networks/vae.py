"""The autoencoder's encoder and decoder (diffusers' AutoencoderKL; Rombach et al. 2022).

Stable Diffusion XL's autoencoder does not fit in fp16: the residual sums exceed 65504, the image turns black, and
diffusers computes it in fp32 (``force_upcast``). Here it stays in fp16 with its own weights: every layer that writes to
those sums multiplies by ``2**-k``, which is exact; only group norms read them, and a group norm's result does not depend
on the size of its input if its epsilon is scaled too. See `trunk_scale`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from converter.errors import CheckpointError
from converter.mil import FP16, Tensor
from converter.networks.attention import attention, diffusers_projections
from converter.networks.layers import Change, Layers
from converter.sources.config_tables import VAE
from converter.sources.configs import Config, expect, read_config

_EPSILON = 1e-6
#: SDXL's scaling factor, which identifies its autoencoder.
_XL_SCALING_FACTOR = 0.13025
#: With this, sums of up to 2 million fit; 310,000 were reported for some images of the original decoder
#: (https://dev.to/elise_moreau/the-sdxl-vae-overflow-that-decoded-black-images-in-fp16-46g6).
_XL_TRUNK_SCALE = 2.0**-5
#: Modules that read unscaled values and write to a sum, or to a tensor that only a group norm reads.
_ENTRIES = (".conv_in", ".conv1", ".conv2", ".to_out.0")
#: Modules that read and write the sums: their input is scaled already.
_PASSAGES = (".conv_shortcut", "samplers.0.conv")
#: The greatest value of a group is scaled to this before squaring. 2**8 is far from overflow, and a lone spike in a
#: group of 2**22 (four of SDXL's channels at 1024 x 1024) still has a variance of 2**8 / 2**22, the least normal fp16.
_REACH = 16.0
#: Added to a group's greatest value, for groups with all values equal; a sixteenth of it is still a normal fp16.
_LEAST = 2.0**-10


def vae_config(component: str, config: Config) -> Config:
    """Return an autoencoder's configuration with defaults; raises CheckpointError if it is another kind of network's."""
    where = f"{component}/config.json"
    expect(where, config, "_class_name", ("AutoencoderKL",), "AutoencoderKL")
    config = read_config(where, config, VAE)
    for kinds, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if set(config[kinds]) != {kind} or len(config[kinds]) != len(config["block_out_channels"]):
            raise CheckpointError(
                f"{where} has {kinds} = {config[kinds]} for {len(config['block_out_channels'])} block_out_channels; "
                f"one {kind} for each is accepted"
            )
    groups = config["norm_num_groups"]
    if wrong := [width for width in config["block_out_channels"] if width % groups]:
        raise CheckpointError(f"{where} has norm_num_groups = {groups}, which does not divide {wrong[0]} channels")
    return config


def trunk_scale(config: dict[str, Any]) -> float:
    """Return the factor of the residual sums inside the networks: a power of two, or 1 if the sums fit in fp16 unscaled.

    An autoencoder made for fp16 (``force_upcast`` false) is not scaled. Single files do not say which one they have;
    scaling one made for fp16 does no harm.
    """
    original = config["force_upcast"] and config["scaling_factor"] == _XL_SCALING_FACTOR
    return _XL_TRUNK_SCALE if original else 1.0


class _ScaledLayers(Layers):
    """Layers that keep an autoencoder's residual sums multiplied by ``scale``, and normalize them without overflow.

    Activations are scaled, not weights: small weights would become subnormal, which some compute units may flush to 0.
    """

    def __init__(self, layers: Layers, scale: float) -> None:
        super().__init__(layers.graph, layers.tensors, layers.attention, layers.encodings)
        self._scale = scale

    def weight(self, path: str, shape: tuple[int, ...], change: Change | None = None) -> Tensor:
        """Return the weight as `Layers` does; scales the biases of modules that write to the sums."""
        module, _, kind = path.rpartition(".")
        if kind != "bias" or not module.endswith((*_ENTRIES, *_PASSAGES)):
            return super().weight(path, shape, change)
        scale = np.float32(self._scale)
        return super().weight(path, shape, lambda w: (w if change is None else change(w)) * scale)

    def _entering(self, x: Tensor, path: str) -> Tensor:
        return self.graph.mul(x, self._scale, f"{path}.scaled") if path.endswith(_ENTRIES) else x

    def conv(
        self, x: Tensor, path: str, out: int, kernel: int, *, stride: int = 1, pad: int | None = None, bias: bool = True
    ) -> Tensor:
        """Apply the layer as `Layers` does; scales its input if it writes to the sums."""
        return super().conv(self._entering(x, path), path, out, kernel, stride=stride, pad=pad, bias=bias)

    def linear(self, x: Tensor, path: str, out: int, *, scale: float = 1.0, bias: bool = True) -> Tensor:
        """Apply the layer as `Layers` does; scales its input if it writes to the sums."""
        return super().linear(self._entering(x, path), path, out, scale=scale, bias=bias)

    def group_norm(self, x: Tensor, path: str, groups: int, epsilon: float) -> Tensor:
        """Apply group norm to scaled [B, C, H, W], of any magnitude.

        With d the distances from a group's mean, s the scale and p at least the greatest abs(d), the result is
        u / sqrt(mean(u**2) + (16 sqrt(epsilon) s / p)**2) for u = 16 d / p, exactly, and no square exceeds 256.
        """
        g = self.graph
        b, c, h, w = x.shape
        axes = [2, 3, 4]
        grouped = g.reshape(x, (b, groups, c // groups, h, w), f"{path}.groups")
        centered = g.sub(grouped, g.reduce_mean(grouped, axes, f"{path}.mean"), f"{path}.centred")
        greatest = g.reduce_max(g.unary("abs", centered, f"{path}.distance"), axes, f"{path}.greatest")
        peak = g.add(greatest, _LEAST, f"{path}.peak")
        unit = g.real_div(centered, g.mul(peak, 1 / _REACH, f"{path}.unit"), f"{path}.units")
        variance = g.reduce_mean(g.unary("square", unit, f"{path}.square"), axes, f"{path}.variance")
        root = g.constant(f"{path}.root", np.float16(_REACH * epsilon**0.5 * self._scale))
        floor = g.unary("square", g.real_div(root, peak, f"{path}.floor_root"), f"{path}.floor")
        std = g.unary("sqrt", g.add(variance, floor, f"{path}.floored"), f"{path}.deviation")
        normalized = g.reshape(g.real_div(unit, std, f"{path}.normal"), x.shape, f"{path}.whole")
        return self.scale_and_shift(normalized, path)


def _in_range(layers: Layers, config: dict[str, Any]) -> Layers:
    scale = trunk_scale(config)
    return layers if scale == 1 else _ScaledLayers(layers, scale)


def _attention(layers: Layers, x: Tensor, path: str, groups: int) -> Tensor:
    """Add single-head self attention over a feature map to it."""
    g = layers.graph
    b, c, h, w = x.shape
    y = g.reshape(layers.group_norm(x, f"{path}.group_norm", groups, _EPSILON), (b, c, 1, h * w), f"{path}.flat")
    y = attention(layers, y, y, diffusers_projections(path, bias=True), path, heads=1)
    return g.add(g.reshape(y, x.shape, f"{path}.map"), x, f"{path}.sum")


def _middle(layers: Layers, x: Tensor, path: str, config: dict[str, Any]) -> Tensor:
    groups, width = config["norm_num_groups"], x.shape[1]
    x = layers.resnet(x, f"{path}.resnets.0", width, None, groups, _EPSILON)
    if config["mid_block_add_attention"]:
        x = _attention(layers, x, f"{path}.attentions.0", groups)
    return layers.resnet(x, f"{path}.resnets.1", width, None, groups, _EPSILON)


def vae_decoder(layers: Layers, config: dict[str, Any], *, height: int, width: int) -> None:
    """Write the decoder: z fp16 [1, L, height/f, width/f], divided by the scaling factor -> image fp32 [1, 3, height, width]."""
    layers, graph = _in_range(layers, config), layers.graph
    groups, widths, latents = config["norm_num_groups"], config["block_out_channels"][::-1], config["latent_channels"]
    factor = 2 ** (len(widths) - 1)
    x = graph.input("z", (1, latents, height // factor, width // factor), FP16)
    if config["use_post_quant_conv"]:
        x = layers.conv(x, "post_quant_conv", latents, 1)
    x = _middle(layers, layers.conv(x, "decoder.conv_in", widths[0], 3), "decoder.mid_block", config)
    for level, out in enumerate(widths):
        path = f"decoder.up_blocks.{level}"
        for index in range(config["layers_per_block"] + 1):
            x = layers.resnet(x, f"{path}.resnets.{index}", out, None, groups, _EPSILON)
        if level < len(widths) - 1:
            x = layers.conv(graph.upsample(x, f"{path}.upsampled"), f"{path}.upsamplers.0.conv", out, 3)
    x = layers.silu(layers.group_norm(x, "decoder.conv_norm_out", groups, _EPSILON), "decoder.act")
    graph.output(layers.conv(x, "decoder.conv_out", 3, 3), "image")


def vae_encoder(layers: Layers, config: dict[str, Any], *, height: int, width: int) -> None:
    """Write the encoder: x fp16 [1, 3, height, width] in [-1, 1] -> latent fp32 [1, 2L, height/f, width/f]: mean, then log variance."""
    layers, graph = _in_range(layers, config), layers.graph
    groups, widths, moments = config["norm_num_groups"], config["block_out_channels"], 2 * config["latent_channels"]
    x = layers.conv(graph.input("x", (1, 3, height, width), FP16), "encoder.conv_in", widths[0], 3)
    for level, out in enumerate(widths):
        path = f"encoder.down_blocks.{level}"
        for index in range(config["layers_per_block"]):
            x = layers.resnet(x, f"{path}.resnets.{index}", out, None, groups, _EPSILON)
        if level < len(widths) - 1:
            padded = graph.pad_bottom_right(x, f"{path}.padded")
            x = layers.conv(padded, f"{path}.downsamplers.0.conv", out, 3, stride=2, pad=0)
    x = _middle(layers, x, "encoder.mid_block", config)
    x = layers.silu(layers.group_norm(x, "encoder.conv_norm_out", groups, _EPSILON), "encoder.act")
    x = layers.conv(x, "encoder.conv_out", moments, 3)
    if config["use_quant_conv"]:
        x = layers.conv(x, "quant_conv", moments, 1)
    graph.output(x, "latent")
