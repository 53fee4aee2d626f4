"""Attention in the Neural Engine's layout, and the transformer block the UNet repeats.

``split_einsum`` is the form of Apple's "Deploying Transformers on the Apple Neural Engine" (2022): every head is its
own pair of einsums with the keys on the channel axis, so that no tensor of all heads' logits ever exists.
"""

from __future__ import annotations

from dataclasses import dataclass

from converter.mil import Tensor
from converter.networks.layers import Layers


@dataclass(frozen=True)
class Projections:
    """Module paths of an attention's four linear layers."""

    query: str
    key: str
    value: str
    out: str


def diffusers_projections(path: str) -> Projections:
    """The names diffusers gives them."""
    return Projections(f"{path}.to_q", f"{path}.to_k", f"{path}.to_v", f"{path}.to_out.0")


def split_einsum(
    layers: Layers, x: Tensor, context: Tensor, names: Projections, path: str, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Multi-head attention of ``x`` [B, C, 1, Q] over ``context`` [B, D, 1, K], giving [B, C, 1, Q].

    The logits' scale is folded into the query weights: before it they would reach sqrt(head size) times further
    towards fp16's limit, which is how v-prediction models come out black. ``mask`` [1, K, 1, Q] is added to them.
    """
    g = layers.graph
    width = layers.tensors.shape(f"{names.query}.weight")[0] // heads
    q = layers.linear(x, names.query, scale=width**-0.5)
    k = g.transpose(layers.linear(context, names.key), (0, 3, 2, 1), f"{names.key}.turned")
    v = layers.linear(context, names.value)
    found = []
    for head in range(heads):
        here = f"{path}.head_{head}"
        begin, end = head * width, (head + 1) * width
        if heads == 1:
            q_h, k_h, v_h = q, k, v
        else:
            q_h = g.slice(q, 1, begin, end, f"{here}.q")
            k_h = g.slice(k, 3, begin, end, f"{here}.k")
            v_h = g.slice(v, 1, begin, end, f"{here}.v")
        logits = g.einsum("bkhc,bchq->bkhq", k_h, q_h, f"{here}.logits")
        if mask is not None:
            logits = g.add(logits, mask, f"{here}.masked")
        share = g.softmax(logits, 1, f"{here}.share")
        found.append(g.einsum("bchk,bkhq->bchq", v_h, share, f"{here}.mix"))
    mixed = found[0] if heads == 1 else g.concat(found, 1, f"{path}.heads")
    return layers.linear(mixed, names.out)


def transformer_block(layers: Layers, x: Tensor, context: Tensor, path: str, heads: int) -> Tensor:
    """Self attention, cross attention and a GEGLU feed-forward, each added to its input, of [B, C, 1, S]."""
    g = layers.graph
    h = layers.layer_norm(x, f"{path}.norm1")
    x = g.add(
        x, split_einsum(layers, h, h, diffusers_projections(f"{path}.attn1"), f"{path}.attn1", heads), f"{path}.1"
    )
    h = layers.layer_norm(x, f"{path}.norm2")
    crossed = split_einsum(layers, h, context, diffusers_projections(f"{path}.attn2"), f"{path}.attn2", heads)
    x = g.add(x, crossed, f"{path}.2")
    h = layers.linear(layers.layer_norm(x, f"{path}.norm3"), f"{path}.ff.net.0.proj")
    value, gate = g.split(h, 2, 1, f"{path}.ff.halves")
    h = g.mul(value, g.gelu(gate, f"{path}.ff.gate"), f"{path}.ff.gated")
    return g.add(x, layers.linear(h, f"{path}.ff.net.2"), f"{path}.3")


def spatial_transformer(
    layers: Layers, x: Tensor, context: Tensor, path: str, *, heads: int, blocks: int, groups: int
) -> Tensor:
    """Transformer blocks over the positions of a feature map [B, C, H, W], added to it."""
    g = layers.graph
    b, c, h, w = x.shape
    y = layers.group_norm(x, f"{path}.norm", groups, 1e-6)
    y = g.reshape(y, (b, c, 1, h * w), f"{path}.flat")
    y = layers.linear(y, f"{path}.proj_in")
    for index in range(blocks):
        y = transformer_block(layers, y, context, f"{path}.transformer_blocks.{index}", heads)
    y = layers.linear(y, f"{path}.proj_out")
    return g.add(g.reshape(y, x.shape, f"{path}.map"), x, f"{path}.sum")
