"""The layer that CLIP's text and vision towers repeat (transformers' CLIPEncoderLayer; Radford et al. 2021)."""

from __future__ import annotations

from typing import Any

from converter.mil import Tensor
from converter.networks.attention import Projections, attention
from converter.networks.layers import Layers


def _activation(layers: Layers, x: Tensor, kind: str, name: str) -> Tensor:
    g = layers.graph
    if kind == "quick_gelu":
        return g.mul(x, g.unary("sigmoid", g.mul(x, 1.702, f"{name}.scaled"), f"{name}.gate"), name)
    return g.gelu(x, name)


def clip_layer(layers: Layers, x: Tensor, path: str, config: dict[str, Any], mask: Tensor | None = None) -> Tensor:
    """Add self attention and a feed-forward to [B, C, 1, S], each to its input; ``config`` is the tower's, with defaults."""
    g, epsilon = layers.graph, float(config["layer_norm_eps"])
    query, key, value, out = (f"{path}.self_attn.{p}_proj" for p in ("q", "k", "v", "out"))
    names = Projections(query, key, value, out, bias=True)
    h = layers.layer_norm(x, f"{path}.layer_norm1", epsilon)
    heads, inner = config["num_attention_heads"], config["intermediate_size"]
    x = g.add(x, attention(layers, h, h, names, f"{path}.self_attn", heads, mask), f"{path}.1")
    h = layers.linear(layers.layer_norm(x, f"{path}.layer_norm2", epsilon), f"{path}.mlp.fc1", inner)
    h = _activation(layers, h, config["hidden_act"], f"{path}.mlp.act")
    return g.add(x, layers.linear(h, f"{path}.mlp.fc2", x.shape[1]), f"{path}.2")
