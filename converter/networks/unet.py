"""The denoising UNet (diffusers' UNet2DConditionModel; Rombach et al. 2022, Podell et al. 2023)."""

from __future__ import annotations

from converter.mil import FP16, Graph, Tensor
from converter.networks.attention import Prompt
from converter.networks.features import IMAGE
from converter.networks.layers import Layers
from converter.networks.prompt import PromptInputs, PromptStates, WithImage
from converter.networks.trunk import Trunk, conditions
from converter.networks.unet_shape import UNetShape


def _upsampled(layers: Layers, x: Tensor, like: Tensor, path: str) -> Tensor:
    """Double the size, cut it to ``like``'s, which is odd if halving rounded up, and convolve.

    Repeating and cutting pixels gives the same as nearest-neighbor interpolation to 2n - 1.
    """
    x = layers.graph.upsample(x, f"{path}.upsampled")
    for axis in (2, 3):
        x = layers.graph.slice(x, axis, 0, like.shape[axis], f"{path}.cut")
    return layers.conv(x, f"{path}.upsamplers.0.conv", x.shape[1], 3)


def unet(
    layers: Layers,
    shape: UNetShape,
    *,
    batch: int,
    tokens: int,
    height: int,
    width: int,
    control: bool = False,
    projected: bool = False,
    image_tokens: int = 0,
) -> None:
    """Write the UNet; ``height`` and ``width`` are the latents' and may be any size.

    Inputs: sample fp16 [B, 4, height, width], timestep and SDXL's or LCM's conditions (see `conditions`),
    encoder_hidden_states fp16 [B, D, 1, tokens] or, with ``projected``, the outputs of `unet_prompt`; with ``control``
    also a ControlNet's additional_residual_0, ... fp16; with ``image_tokens`` also the outputs of an IP-Adapter that
    gives an image so many tokens (see `converter.networks.ip_adapter`).
    Output: noise_pred fp32 like the latents.
    """
    g: Graph = layers.graph
    sample = g.input("sample", (batch, shape.in_channels, height, width), FP16)
    time = conditions(layers, shape, batch)
    prompt: Prompt
    if projected:
        prompt = PromptInputs(layers, shape, batch=batch, tokens=tokens)
    else:
        prompt = PromptStates(g.input("encoder_hidden_states", (batch, shape.context_width, 1, tokens), FP16))
    if image_tokens:
        image = PromptInputs(layers, shape, batch=batch, tokens=image_tokens, prefix=IMAGE)
        prompt = WithImage(prompt, image)
    trunk = Trunk(layers, shape, time, prompt)

    skips = trunk.down(layers.conv(sample, "conv_in", shape.levels[0].width, 3))
    x = trunk.middle(skips[-1])
    if control:
        residuals = [
            g.input(f"additional_residual_{index}", tensor.shape, FP16) for index, tensor in enumerate([*skips, x])
        ]
        *skips, x = (g.add(t, r, f"control.{i}") for i, (t, r) in enumerate(zip([*skips, x], residuals, strict=True)))

    for up, level in enumerate(reversed(shape.levels)):
        number, path = len(shape.levels) - 1 - up, f"up_blocks.{up}"
        for index, blocks in enumerate(level.up):
            x = g.concat([x, skips.pop()], 1, f"{path}.{index}.joined")
            x = trunk.block(x, path, number, index, blocks)
        if number:
            x = _upsampled(layers, x, skips[-1], path)

    x = layers.silu(layers.group_norm(x, "conv_norm_out", shape.groups, shape.epsilon), "conv_act")
    g.output(layers.conv(x, "conv_out", shape.out_channels, 3), "noise_pred")
