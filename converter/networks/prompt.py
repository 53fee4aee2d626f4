"""Cross-attention inputs: text embeddings, or keys and values projected once per prompt.

Keys and values of cross attention depend on the prompt alone, not on the step. Projecting them is 1 % of an SDXL
UNet's work but 13 % of its weights, which a UNet that takes keys and values does not need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from converter.mil import FP16, Tensor
from converter.networks.attention import KeysValues, Prompt, diffusers_projections, keys_values
from converter.networks.layers import Layers
from converter.networks.unet_shape import UNetShape


@dataclass(frozen=True)
class PromptStates:
    """The text encoders' states, [B, D, 1, K]."""

    states: Tensor

    def keys_values(self, layers: Layers, path: str, width: int) -> Sequence[KeysValues]:
        """Return keys and values of the cross attention at ``path``, ``width`` channels each."""
        return [keys_values(layers, self.states, diffusers_projections(path, bias=False), width)]


@dataclass(frozen=True)
class Transformer:
    """A spatial transformer of a UNet: its module path, the number of its blocks, and their width."""

    path: str
    blocks: int
    width: int

    def cross_attentions(self) -> list[str]:
        """Return the paths of its cross-attention modules."""
        return [f"{self.path}.transformer_blocks.{index}.attn2" for index in range(self.blocks)]


def transformers(shape: UNetShape) -> list[Transformer]:
    """Return the UNet's spatial transformers in the order in which they run."""
    in_order, levels = [], list(enumerate(shape.levels))
    for number, level in levels:
        for index, blocks in enumerate(level.down):
            in_order.append(Transformer(f"down_blocks.{number}.attentions.{index}", blocks, level.width))
    in_order.append(Transformer("mid_block.attentions.0", shape.middle or 0, shape.levels[-1].width))
    for up, (_, level) in enumerate(reversed(levels)):
        for index, blocks in enumerate(level.up):
            in_order.append(Transformer(f"up_blocks.{up}.attentions.{index}", blocks, level.width))
    return [transformer for transformer in in_order if transformer.blocks]


class PromptInputs:
    """Keys and values as inputs keys_0, values_0, ... of the UNet; each joins the blocks of one spatial transformer.

    One input for all is too large: SDXL's have 83,200 channels, the Neural Engine takes at most 65,536.
    """

    def __init__(self, layers: Layers, shape: UNetShape, *, batch: int, tokens: int, prefix: str = "") -> None:
        """Declare the inputs, fp16: values_i [B, blocks * C, 1, K] and keys_i in the order of `keys_values`.

        ``prefix`` begins their names.
        """
        g, channels_last = layers.graph, layers.attention != "original"
        self._keys_values: dict[str, KeysValues] = {}
        for number, transformer in enumerate(transformers(shape)):
            channels = transformer.blocks * transformer.width
            channels_first = (batch, channels, 1, tokens)
            keys_shape = (batch, tokens, 1, channels) if channels_last else channels_first
            keys = g.input(f"{prefix}keys_{number}", keys_shape, FP16)
            values = g.input(f"{prefix}values_{number}", channels_first, FP16)
            for index, path in enumerate(transformer.cross_attentions()):
                begin, end = index * transformer.width, (index + 1) * transformer.width
                self._keys_values[path] = (
                    g.slice(keys, 3 if channels_last else 1, begin, end, f"{path}.keys"),
                    g.slice(values, 1, begin, end, f"{path}.values"),
                )

    def keys_values(self, layers: Layers, path: str, width: int) -> Sequence[KeysValues]:
        """Return keys and values of the cross attention at ``path``, ``width`` channels each."""
        return [self._keys_values[path]]


@dataclass(frozen=True)
class WithImage:
    """A prompt of text and, beside it, an image in the form that an IP-Adapter gives it."""

    text: Prompt
    image: Prompt

    def keys_values(self, layers: Layers, path: str, width: int) -> Sequence[KeysValues]:
        """Return the text's keys and values, then the image's."""
        return [*self.text.keys_values(layers, path, width), *self.image.keys_values(layers, path, width)]


def output_keys_values(layers: Layers, shape: UNetShape, states: Prompt, prefix: str = "") -> None:
    """Add the outputs keys_0, values_0, ... fp32, in the form of the inputs that `PromptInputs` declares."""
    g, axis = layers.graph, 1 if layers.attention == "original" else 3
    for number, transformer in enumerate(transformers(shape)):
        pairs = [states.keys_values(layers, path, transformer.width)[0] for path in transformer.cross_attentions()]
        g.output(g.concat([k for k, _ in pairs], axis, f"{transformer.path}.keys"), f"{prefix}keys_{number}")
        g.output(g.concat([v for _, v in pairs], 1, f"{transformer.path}.values"), f"{prefix}values_{number}")


def unet_prompt(layers: Layers, shape: UNetShape, *, batch: int, tokens: int) -> None:
    """Project a prompt for `PromptInputs`: encoder_hidden_states fp16 [B, D, 1, K] -> keys_0, values_0, ... fp32."""
    states = layers.graph.input("encoder_hidden_states", (batch, shape.context_width, 1, tokens), FP16)
    output_keys_values(layers, shape, PromptStates(states))
