"""A pass that replaces the forms of attention in programs by one node: by heads, or by chunks of queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converter.runtime.fast.graph import Graph, Node

_LOGITS, _CONTEXT = "bkhc,bchq->bkhq", "bchk,bkhq->bchq"


@dataclass(frozen=True)
class _Slice:
    """A slice of a tensor, from ``begin`` to ``end`` of each axis."""

    source: str
    begin: tuple[int, ...]
    end: tuple[int, ...]


@dataclass(frozen=True)
class _Head:
    """One head, or a chunk of its queries: slices of query, key and value, and the factor of its logits.

    transposed: whether the key's tensor is [B, K, 1, C]; its slice is nevertheless that of [B, C, 1, K].
    """

    query: _Slice
    key: _Slice
    transposed: bool
    value: _Slice
    scale: float


def _slice(graph: Graph, name: str) -> _Slice:
    node = graph.node_of(name, "slice_by_index")
    source = node.source("x") if node is not None else None
    if node is None or source is None:
        shape = graph.shapes[name]
        return _Slice(name, (0,) * len(shape), shape)
    shape = graph.shapes[source]
    begin, end = node.numbers("begin"), node.numbers("end")
    stride = node.numbers("stride") or [1] * len(shape)
    squeezed = node.numbers("squeeze_mask") or [0]
    if begin is None or end is None or any(s != 1 for s in stride) or any(squeezed):
        return _Slice(name, (0,) * len(graph.shapes[name]), graph.shapes[name])
    open_begin = node.numbers("begin_mask") or [0] * len(shape)
    open_end = node.numbers("end_mask") or [0] * len(shape)
    first = [0 if o else b + n if b < 0 else b for b, o, n in zip(begin, open_begin, shape, strict=True)]
    last = [n if o else e + n if e < 0 else e for e, o, n in zip(end, open_end, shape, strict=True)]
    return _Slice(source, tuple(first), tuple(last))


def _transposed(graph: Graph, name: str) -> str | None:
    node = graph.node_of(name, "transpose")
    if node is None or [n % 4 for n in node.numbers("perm") or []] != [0, 3, 2, 1]:
        return None
    return node.source("x")


def _key(graph: Graph, name: str) -> tuple[_Slice, bool]:
    """Return a head's keys [B, K, 1, d] as a slice of [B, C, 1, K], and whether the sliced tensor is [B, K, 1, C]."""
    part = _slice(graph, name)
    source = _transposed(graph, part.source)
    if source is not None and part.source == name:
        return _slice(graph, source), False
    b, e = part.begin, part.end
    swapped = _Slice(part.source if source is None else source, (b[0], b[3], b[2], b[1]), (e[0], e[3], e[2], e[1]))
    return swapped, source is None


def _scaled(graph: Graph, name: str | None) -> tuple[str | None, float]:
    """Return logits before a multiplication by a constant, and that factor."""
    node = graph.node_of(name, "mul", "real_div")
    if node is None:
        return name, 1.0
    for one, other in (("x", "y"), ("y", "x")):
        x, factor = node.source(one), node.scalar(other)
        if x is not None and factor is not None and (node.kind == "mul" or one == "x"):
            return x, factor if node.kind == "mul" else 1 / factor
    return name, 1.0


def _softmax_logits(graph: Graph, name: str | None, axis: int) -> tuple[str | None, float]:
    """Return the logits of a softmax over an axis, and their factor."""
    node = graph.node_of(name, "softmax")
    if node is None or (node.numbers("axis") or [-1])[0] % 4 != axis:
        return None, 1.0
    return _scaled(graph, node.source("x"))


def _head(graph: Graph, name: str) -> _Head | None:
    context = graph.node_of(name, "einsum")
    if context is None or context.constant("equation") != _CONTEXT or len(context.inputs.get("values", ())) != 2:
        return None
    value, probs = context.inputs["values"]
    inside, scale = _softmax_logits(graph, probs, 1)
    logits = graph.node_of(inside, "einsum")
    if logits is None or logits.constant("equation") != _LOGITS or len(logits.inputs.get("values", ())) != 2:
        return None
    key, transposed = _key(graph, logits.inputs["values"][0])
    return _Head(_slice(graph, logits.inputs["values"][1]), key, transposed, _slice(graph, value), scale)


def _values(graph: Graph, name: str, axis: int) -> tuple[str, ...]:
    node = graph.node_of(name, "concat")
    if (
        node is None
        or (node.numbers("axis") or [0])[0] % 4 != axis
        or node.scalar("interleave")
        or "values" not in node.inputs
    ):
        return (name,)
    return node.inputs["values"]


def _attention(output: str, q: str, k: str, v: str, heads: int, scale: float, layout: str, **options: Any) -> Node:
    """Return the node. key_begin, value_begin: first channels in their tensors. transposed: keys are [B, K, 1, C]."""
    defaults = {"key_begin": 0, "value_begin": 0, "transposed": False, **options}
    options = {"heads": heads, "scale": scale, "layout": layout, **defaults}
    return Node("attention", (output,), {"q": (q,), "k": (k,), "v": (v,)}, {}, options)


def _covers(row: list[_Head], first: _Head, own: tuple[int, int], queries: int, keys: int) -> bool:
    """Return whether the chunks of a head take its channels of query, key and value, all its keys, and each query once."""
    reached = 0
    for part in row:
        if (part.query.source, part.key.source, part.value.source, part.scale, part.transposed) != (
            (first.query.source, first.key.source, first.value.source, first.scale, first.transposed)
        ):
            return False
        for piece, begin in ((part.query, 0), (part.key, first.key.begin[1]), (part.value, first.value.begin[1])):
            if (piece.begin[1] - begin, piece.end[1] - begin) != own:
                return False
        for piece in (part.key, part.value):
            if (piece.begin[3], piece.end[3]) != (0, keys):
                return False
        if part.query.begin[3] != reached:
            return False
        reached = part.query.end[3]
    return reached == queries


def _split_heads(graph: Graph, node: Node) -> Node | None:
    """Match Apple's forms: one einsum per head, or per chunk of its queries; heads are channels of [B, C, 1, S]."""
    rows = [[_head(graph, chunk) for chunk in _values(graph, head, 3)] for head in _values(graph, node.output, 1)]
    parts = [[part for part in row if part is not None] for row in rows]
    if [len(row) for row in rows] != [len(row) for row in parts] or not parts[0]:
        return None
    first = parts[0][0]
    query, value = graph.shapes[first.query.source], graph.shapes[first.value.source]
    if len(query) != 4 or query[2] != 1 or query[1] % len(parts) or len(value) != 4 or value[2] != 1:
        return None
    depth = query[1] // len(parts)
    for number, row in enumerate(parts):
        if not _covers(row, first, (number * depth, (number + 1) * depth), query[3], value[3]):
            return None
    return _attention(
        node.output, first.query.source, first.key.source, first.value.source, len(parts), first.scale, "channels",
        key_begin=first.key.begin[1], value_begin=first.value.begin[1], transposed=first.transposed,
    )  # fmt: skip


def _by_head(graph: Graph, name: str | None, channels: int) -> tuple[str, int] | None:
    """Return the tensor [B, C, 1, S] that [B, heads, d, S] was reshaped from, and the number of heads."""
    node = graph.node_of(name, "reshape")
    source = node.source("x") if node is not None else None
    if node is None or source is None:
        return None
    before, after = graph.shapes[source], graph.shapes[node.output]
    matches = len(before) == len(after) == 4 and before[1] == after[1] * after[2] == channels and before[2] == 1
    return (source, after[1]) if matches and before[3] == after[3] else None


def _one_matmul(graph: Graph, node: Node) -> Node | None:
    """Match the `original` form: all heads in one product, [B, heads, d, S]."""
    shape = graph.shapes[node.output]
    context = graph.node_of(node.source("x"), "matmul") if node.kind == "reshape" else None
    if (
        context is None
        or len(shape) != 4
        or shape[2] != 1
        or context.scalar("transpose_x")
        or not context.scalar("transpose_y")
    ):
        return None
    inside, scale = _softmax_logits(graph, context.source("y"), 3)
    logits = graph.node_of(inside, "matmul")
    if logits is None or not logits.scalar("transpose_x") or logits.scalar("transpose_y"):
        return None
    split = [_by_head(graph, name, shape[1]) for name in (logits.source("x"), logits.source("y"), context.source("x"))]
    if any(f is None or f[1] != split[0][1] for f in split):  # type: ignore[index]
        return None
    q, k, v = (f[0] for f in split if f is not None)
    return _attention(node.output, q, k, v, split[0][1], scale, "channels")  # type: ignore[index]


@dataclass(frozen=True)
class _ByHead:
    """The rows of channels [B, S, C] behind [B, heads, S, d], and the factor between them."""

    source: str
    heads: int
    factor: float


def _rows_by_head(graph: Graph, name: str | None) -> _ByHead | None:
    inner, after = _scaled(graph, name)
    transposed = graph.node_of(inner, "transpose")
    if transposed is None or [n % 4 for n in transposed.numbers("perm") or []] != [0, 2, 1, 3]:
        return None
    inside, before = _scaled(graph, transposed.source("x"))
    split = graph.node_of(inside, "reshape")
    source = split.source("x") if split is not None else None
    if split is None or source is None:
        return None
    flat, shape = graph.shapes[source], graph.shapes[split.output]
    matches = len(flat) == 3 and len(shape) == 4 and flat[:2] == shape[:2] and flat[2] == shape[2] * shape[3]
    return _ByHead(source, shape[2], before * after) if matches else None


def _rows(graph: Graph, node: Node) -> Node | None:
    """Match the form of ct.convert: rows of channels [B, S, C], with scaled_dot_product_attention or two products."""
    transposed = graph.node_of(node.source("x"), "transpose") if node.kind == "reshape" else None
    if (
        transposed is None
        or [n % 4 for n in transposed.numbers("perm") or []] != [0, 2, 1, 3]
        or len(graph.shapes[node.output]) != 3
    ):
        return None
    context = graph.node_of(transposed.source("x"), "scaled_dot_product_attention", "matmul")
    if context is None:
        return None
    if context.kind == "scaled_dot_product_attention":
        if "attn_mask" in context.inputs or "attn_mask" in context.constants:
            return None
        names, scale = (context.source("query"), context.source("key"), context.source("value")), None
    else:
        inside, factor = _softmax_logits(graph, context.source("x"), 3)
        logits = graph.node_of(inside, "matmul")
        if (
            logits is None
            or context.scalar("transpose_x")
            or context.scalar("transpose_y")
            or logits.scalar("transpose_x")
        ):
            return None
        if not logits.scalar("transpose_y"):
            return None
        names, scale = (logits.source("x"), logits.source("y"), context.source("y")), factor
    parts = [f for f in (_rows_by_head(graph, name) for name in names) if f is not None]
    if len(parts) != 3 or len({p.heads for p in parts}) != 1 or parts[2].factor != 1:
        return None
    shape = graph.shapes[node.output]
    if shape != graph.shapes[parts[0].source]:
        return None
    scale = (shape[2] // parts[0].heads) ** -0.5 if scale is None else scale
    scale *= parts[0].factor * parts[1].factor
    q, k, v = (p.source for p in parts)
    return _attention(node.output, q, k, v, parts[0].heads, scale, "rows")


def find_attention(graph: Graph, node: Node) -> Node | None:
    """Return one node for an attention without a mask that ends at this node; None if none does."""
    if node.kind in ("concat", "einsum"):
        return _split_heads(graph, node)
    return _one_matmul(graph, node) or _rows(graph, node) if node.kind == "reshape" else None
