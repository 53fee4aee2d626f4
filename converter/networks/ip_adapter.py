"""IP-Adapters: an image in the form that cross attention takes (Ye et al. 2023, arXiv:2308.06721).

An adapter gives an image a few tokens and projects them to keys and values of every cross attention, which the UNet
attends to beside those of the text. They depend on the image alone and not on the step, so they are computed once, in a
package of their own: UNet packages have no weights of adapters, and all adapters of as many tokens share them.
How much the image counts is a factor of its values, which the caller multiplies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from converter.mil import FP16, Tensor
from converter.networks.attention import KeysValues, Projections, attended, keys_values
from converter.networks.features import IMAGE
from converter.networks.layers import Layers
from converter.networks.prompt import Transformer, output_keys_values, transformers
from converter.networks.unet_shape import UNetShape
from converter.sources.configs import Config
from converter.sources.ip_adapter import HEAD, PLUS

_ROOT = "image_proj"
#: Width of the resampler's feed-forward as a multiple of its input's.
_INNER_FACTOR = 4


def cross_attention_numbers(shape: UNetShape) -> dict[str, int]:
    """Map the paths of the UNet's cross attentions to their numbers in an adapter's file.

    The published numbering is that of all attentions in the order of diffusers' modules: the way down, the way up, then the
    middle. Every second one is a cross attention.
    """

    def place(transformer: Transformer) -> bool:
        return transformer.path.startswith("mid_block")

    ordered = sorted(transformers(shape), key=place)
    paths = [path for transformer in ordered for path in transformer.cross_attentions()]
    return {path: 2 * index + 1 for index, path in enumerate(paths)}


@dataclass(frozen=True)
class _ImageStates:
    """An image's tokens, [1, D, 1, K], with the adapter's own projections to keys and values."""

    tokens: Tensor
    numbers: dict[str, int]

    def keys_values(self, layers: Layers, path: str, width: int) -> Sequence[KeysValues]:
        """Return keys and values of the cross attention at ``path``, ``width`` channels each."""
        key, value = (f"ip_adapter.{self.numbers[path]}.to_{side}_ip" for side in ("k", "v"))
        return [keys_values(layers, self.tokens, Projections("", key, value, "", bias=False), width)]


def _linear_projection(layers: Layers, config: Config) -> Tensor:
    """Return the tokens of an embedding: a linear layer, cut into tokens, and a norm (diffusers' ImageProjection)."""
    g, width, count = layers.graph, config["cross_attention_dim"], config["num_image_text_embeds"]
    embeds = g.input("image_features", (1, config["image_embed_dim"], 1, 1), FP16)
    rows = g.reshape(layers.linear(embeds, f"{_ROOT}.image_embeds", count * width), (1, count, width, 1), "rows")
    return layers.layer_norm(g.transpose(rows, (0, 2, 3, 1), "tokens"), f"{_ROOT}.norm")


def _resampler_layer(layers: Layers, states: Tensor, latents: Tensor, path: str, heads: int) -> Tensor:
    """Add attention over the image's states and the latents, then a feed-forward, to the latents [1, C, 1, K]."""
    g, width, inner = layers.graph, latents.shape[1], HEAD * heads
    own, attn = layers.layer_norm(latents, f"{path}.ln1"), f"{path}.attn"
    context = g.concat([layers.layer_norm(states, f"{path}.ln0"), own], 3, f"{path}.context")
    q = layers.linear(own, f"{attn}.to_q", inner, scale=HEAD**-0.5, bias=False)
    names = Projections("", f"{attn}.to_k", f"{attn}.to_v", "", bias=False)
    h = attended(layers, q, [keys_values(layers, context, names, inner)], attn, heads)
    x = g.add(layers.linear(h, f"{attn}.to_out.0", width, bias=False), latents, f"{path}.1")
    h = layers.layer_norm(x, f"{path}.ff.0")
    h = g.gelu(layers.linear(h, f"{path}.ff.1.net.0.proj", _INNER_FACTOR * width, bias=False), f"{path}.ff.act")
    return g.add(layers.linear(h, f"{path}.ff.1.net.2", width, bias=False), x, f"{path}.2")


def _resampler(layers: Layers, config: Config) -> Tensor:
    """Return tokens that attend to an image's states (IP-Adapter Plus; diffusers' IPAdapterPlusImageProjection)."""
    width, count = config["hidden_dims"], config["num_queries"]
    states = layers.graph.input("image_features", (1, config["embed_dims"], 1, config["states"]), FP16)
    states = layers.linear(states, f"{_ROOT}.proj_in", width)
    latents = layers.weight(f"{_ROOT}.latents", (1, count, width))
    latents = layers.graph.expand_dims(layers.graph.transpose(latents, (0, 2, 1), "latents"), [2], "latents.channels")
    for index in range(config["depth"]):
        latents = _resampler_layer(layers, states, latents, f"{_ROOT}.layers.{index}", config["heads"])
    return layers.layer_norm(layers.linear(latents, f"{_ROOT}.proj_out", config["output_dims"]), f"{_ROOT}.norm_out")


def ip_adapter(layers: Layers, config: Config, shape: UNetShape) -> None:
    """Write an IP-Adapter for a UNet of this shape; ``config`` is as `converter.sources.ip_adapter` derives it.

    image_features fp16, `image_encoder`'s image_embeds [1, E, 1, 1] or, for IP-Adapter Plus, its image_states
    [1, D, 1, S] -> image_keys_0, image_values_0, ... fp32, which are inputs of the UNet's packages.
    """
    tokens = (_resampler if config["_class_name"] == PLUS else _linear_projection)(layers, config)
    output_keys_values(layers, shape, _ImageStates(tokens, cross_attention_numbers(shape)), IMAGE)
