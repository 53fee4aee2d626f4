"""Attention in the Neural Engine's layout, in three implementations, and the UNet's transformer block.

``original``: all heads in one matrix product, for GPUs. ``split_einsum``: every head is its own pair of einsums with
the keys on the channel axis, so that no tensor of all heads' logits ever exists (Apple, "Deploying Transformers on
the Apple Neural Engine", 2022). ``split_einsum_v2``: the same, with long rows of queries in chunks.
The three read the same weights in the same order, so their weights files are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from converter.mil import Tensor
from converter.networks.layers import Layers

#: split_einsum_v2 cuts queries where a head's logits exceed this: 4096 queries and keys at batch 2 take 67 MB, 1024
#: take 4. Apple's form cuts every layer of 512 or more, which makes twice as many operations to compile.
_LARGEST_LOGITS = 8 * 2**20
_CHUNK = 512
#: Inner width of a feed-forward as a multiple of its input's; its gate has the same width.
_INNER_FACTOR = 4


#: Keys [B, K, 1, C], or for the ``original`` implementation [B, C, 1, K], and values [B, C, 1, K].
KeysValues: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Projections:
    """Module paths of an attention's four linear layers. bias: whether the first three have biases; the last always has."""

    query: str
    key: str
    value: str
    out: str
    bias: bool


def diffusers_projections(path: str, *, bias: bool) -> Projections:
    """Return the paths that diffusers gives the layers of the attention at ``path``."""
    return Projections(f"{path}.to_q", f"{path}.to_k", f"{path}.to_v", f"{path}.to_out.0", bias)


def _query_chunks(batch: int, keys: int, queries: int) -> list[tuple[int, int]]:
    if 2 * batch * keys * queries <= _LARGEST_LOGITS:
        return [(0, queries)]
    return [(begin, min(begin + _CHUNK, queries)) for begin in range(0, queries, _CHUNK)]


def _split(
    layers: Layers, q: Tensor, k: Tensor, v: Tensor, path: str, heads: int, mask: Tensor | None, *, cut: bool
) -> Tensor:
    """Return attention head by head of ``q`` [B, C, 1, Q], ``k`` [B, K, 1, C] and ``v`` [B, C, 1, K]: [B, C, 1, Q]."""
    g = layers.graph
    width, queries = q.shape[1] // heads, q.shape[3]
    chunks = _query_chunks(q.shape[0], v.shape[3], queries) if cut else [(0, queries)]
    outputs = []
    for head in range(heads):
        head_path, begin, end = f"{path}.head_{head}", head * width, (head + 1) * width
        q_h = g.slice(q, 1, begin, end, f"{head_path}.q")
        k_h = g.slice(k, 3, begin, end, f"{head_path}.k")
        v_h = g.slice(v, 1, begin, end, f"{head_path}.v")
        attended = []
        for first, last in chunks:
            logits = g.einsum(
                "bkhc,bchq->bkhq", k_h, g.slice(q_h, 3, first, last, f"{head_path}.piece"), f"{head_path}.logits"
            )
            if mask is not None:
                logits = g.add(logits, g.slice(mask, 3, first, last, f"{head_path}.mask"), f"{head_path}.masked")
            probs = g.softmax(logits, 1, f"{head_path}.share")
            attended.append(g.einsum("bchk,bkhq->bchq", v_h, probs, f"{head_path}.mix"))
        outputs.append(g.concat(attended, 3, f"{head_path}.whole"))
    return g.concat(outputs, 1, f"{path}.heads")


def _all_heads(layers: Layers, q: Tensor, k: Tensor, v: Tensor, path: str, heads: int, mask: Tensor | None) -> Tensor:
    """Return attention of all heads at once; as `_split`, but ``k`` is [B, C, 1, K]."""
    g = layers.graph
    batch, channels, _, queries = q.shape
    width, keys = channels // heads, v.shape[3]
    q = g.reshape(q, (batch, heads, width, queries), f"{path}.q")
    k = g.reshape(k, (batch, heads, width, keys), f"{path}.k")
    v = g.reshape(v, (batch, heads, width, keys), f"{path}.v")
    logits = g.matmul(q, k, f"{path}.logits", transpose_x=True)
    if mask is not None:
        logits = g.add(logits, g.transpose(mask, (0, 2, 3, 1), f"{path}.mask"), f"{path}.masked")
    probs = g.softmax(logits, 3, f"{path}.share")
    return g.reshape(
        g.matmul(v, probs, f"{path}.mix", transpose_y=True), (batch, channels, 1, queries), f"{path}.heads"
    )


def keys_values(layers: Layers, context: Tensor, names: Projections, width: int) -> KeysValues:
    """Return the keys of ``context`` [B, D, 1, K], in the order attention reads them, and its values [B, C, 1, K].

    C is ``width``. The keys are [B, K, 1, C], or for the ``original`` implementation [B, C, 1, K].
    """
    k = layers.linear(context, names.key, width, bias=names.bias)
    if layers.attention != "original":
        k = layers.graph.transpose(k, (0, 3, 2, 1), f"{names.key}.turned")
    return k, layers.linear(context, names.value, width, bias=names.bias)


def attended(
    layers: Layers,
    q: Tensor,
    keys_and_values: Sequence[KeysValues],
    path: str,
    heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    """Return multi-head attention of queries ``q`` [B, C, 1, Q], which are scaled already, over keys and values.

    With several pairs of them, the sum of the attentions over each, as in IP-Adapters (Ye et al. 2023). ``mask``
    [1, K, 1, Q] is added to the logits.
    """

    def over(k: Tensor, v: Tensor, path: str) -> Tensor:
        if layers.attention == "original":
            return _all_heads(layers, q, k, v, path, heads, mask)
        return _split(layers, q, k, v, path, heads, mask, cut=layers.attention == "split_einsum_v2")

    first, *others = keys_and_values
    total = over(*first, path)
    for number, pair in enumerate(others, 1):
        total = layers.graph.add(total, over(*pair, f"{path}.more_{number}"), f"{path}.sum_{number}")
    return total


def attend(
    layers: Layers,
    x: Tensor,
    keys_and_values: Callable[[], Sequence[KeysValues]],
    names: Projections,
    path: str,
    heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    """Return multi-head attention of ``x`` [B, C, 1, Q] over keys and values as `keys_values` gives them: [B, C, 1, Q].

    The logits' scale is folded into the query weights: unscaled logits would be sqrt(head size) times nearer to fp16's
    limit, which is why v-prediction models give black images. ``mask`` is as in `attended`.
    """
    channels = x.shape[1]
    q = layers.linear(x, names.query, channels, scale=(channels // heads) ** -0.5, bias=names.bias)
    return layers.linear(attended(layers, q, keys_and_values(), path, heads, mask), names.out, channels)


def attention(
    layers: Layers, x: Tensor, context: Tensor, names: Projections, path: str, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Return multi-head attention of ``x`` [B, C, 1, Q] over ``context`` [B, D, 1, K]; see `attend`."""
    return attend(layers, x, lambda: [keys_values(layers, context, names, x.shape[1])], names, path, heads, mask)


class Prompt(Protocol):
    """A prompt in the form that cross attention takes."""

    def keys_values(self, layers: Layers, path: str, width: int) -> Sequence[KeysValues]:
        """Return the pairs of keys and values that the cross attention at ``path`` attends to, ``width`` channels each."""


def transformer_block(layers: Layers, x: Tensor, prompt: Prompt, path: str, heads: int) -> Tensor:
    """Add self attention, cross attention and a GEGLU feed-forward to [B, C, 1, S], each to its input."""
    g, width, own, cross = layers.graph, x.shape[1], f"{path}.attn1", f"{path}.attn2"
    h = layers.layer_norm(x, f"{path}.norm1")
    x = g.add(x, attention(layers, h, h, diffusers_projections(own, bias=False), own, heads), f"{path}.1")
    h = layers.layer_norm(x, f"{path}.norm2")
    names = diffusers_projections(cross, bias=False)
    crossed = attend(layers, h, lambda: prompt.keys_values(layers, cross, width), names, cross, heads)
    x = g.add(x, crossed, f"{path}.2")
    h = layers.linear(layers.layer_norm(x, f"{path}.norm3"), f"{path}.ff.net.0.proj", 2 * _INNER_FACTOR * width)
    value, gate = g.split(h, 2, 1, f"{path}.ff.halves")
    h = g.mul(value, g.gelu(gate, f"{path}.ff.gate"), f"{path}.ff.gated")
    return g.add(x, layers.linear(h, f"{path}.ff.net.2", width), f"{path}.3")


def spatial_transformer(
    layers: Layers, x: Tensor, prompt: Prompt, path: str, *, heads: int, blocks: int, groups: int
) -> Tensor:
    """Add transformer blocks over the positions of a feature map [B, C, H, W] to it."""
    g = layers.graph
    b, c, h, w = x.shape
    y = layers.group_norm(x, f"{path}.norm", groups, 1e-6)
    y = g.reshape(y, (b, c, 1, h * w), f"{path}.flat")
    y = layers.linear(y, f"{path}.proj_in", c)
    for index in range(blocks):
        y = transformer_block(layers, y, prompt, f"{path}.transformer_blocks.{index}", heads)
    y = layers.linear(y, f"{path}.proj_out", c)
    return g.add(g.reshape(y, x.shape, f"{path}.map"), x, f"{path}.sum")
