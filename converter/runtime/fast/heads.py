"""A pass that makes one attention of the forms programs write it in: a head, or a chunk of queries, at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converter.runtime.fast.graph import Graph, Node

_LOGITS, _MIX = "bkhc,bchq->bkhq", "bchk,bkhq->bchq"


@dataclass(frozen=True)
class _Part:
    """A stretch of a tensor: ``begin`` to ``end`` of each axis."""

    source: str
    begin: tuple[int, ...]
    end: tuple[int, ...]


@dataclass(frozen=True)
class _Head:
    """A head's, or a chunk of one's: stretches of query, key and value, and what its logits are multiplied by.

    transposed: whether the key's tensor is [B, K, 1, C], its stretch being told as if it were [B, C, 1, K] all the same.
    """

    query: _Part
    key: _Part
    transposed: bool
    value: _Part
    scale: float


def _part(graph: Graph, name: str) -> _Part:
    node = graph.made(name, "slice_by_index")
    source = node.source("x") if node is not None else None
    if node is None or source is None:
        shape = graph.shapes[name]
        return _Part(name, (0,) * len(shape), shape)
    shape = graph.shapes[source]
    begin, end = node.numbers("begin"), node.numbers("end")
    stride = node.numbers("stride") or [1] * len(shape)
    squeezed = node.numbers("squeeze_mask") or [0]
    if begin is None or end is None or any(s != 1 for s in stride) or any(squeezed):
        return _Part(name, (0,) * len(graph.shapes[name]), graph.shapes[name])
    open_begin = node.numbers("begin_mask") or [0] * len(shape)
    open_end = node.numbers("end_mask") or [0] * len(shape)
    first = [0 if o else b + n if b < 0 else b for b, o, n in zip(begin, open_begin, shape, strict=True)]
    last = [n if o else e + n if e < 0 else e for e, o, n in zip(end, open_end, shape, strict=True)]
    return _Part(source, tuple(first), tuple(last))


def _transposed(graph: Graph, name: str) -> str | None:
    node = graph.made(name, "transpose")
    if node is None or [n % 4 for n in node.numbers("perm") or []] != [0, 3, 2, 1]:
        return None
    return node.source("x")


def _key(graph: Graph, name: str) -> tuple[_Part, bool]:
    """Return a head's keys [B, K, 1, d] as a slice of [B, C, 1, K], and whether the sliced tensor is [B, K, 1, C]."""
    part = _part(graph, name)
    source = _transposed(graph, part.source)
    if source is not None and part.source == name:
        return _part(graph, source), False
    b, e = part.begin, part.end
    seen = _Part(part.source if source is None else source, (b[0], b[3], b[2], b[1]), (e[0], e[3], e[2], e[1]))
    return seen, source is None


def _scaled(graph: Graph, name: str | None) -> tuple[str | None, float]:
    """Return logits and the factor they are multiplied by after the product."""
    node = graph.made(name, "mul", "real_div")
    if node is None:
        return name, 1.0
    for one, other in (("x", "y"), ("y", "x")):
        x, factor = node.source(one), node.scalar(other)
        if x is not None and factor is not None and (node.kind == "mul" or one == "x"):
            return x, factor if node.kind == "mul" else 1 / factor
    return name, 1.0


def _shares(graph: Graph, name: str | None, axis: int) -> tuple[str | None, float]:
    """Return the logits of a softmax over an axis, and the factor they were multiplied by."""
    node = graph.made(name, "softmax")
    if node is None or (node.numbers("axis") or [-1])[0] % 4 != axis:
        return None, 1.0
    return _scaled(graph, node.source("x"))


def _head(graph: Graph, name: str) -> _Head | None:
    mix = graph.made(name, "einsum")
    if mix is None or mix.constant("equation") != _MIX or len(mix.inputs.get("values", ())) != 2:
        return None
    value, shares = mix.inputs["values"]
    inside, scale = _shares(graph, shares, 1)
    logits = graph.made(inside, "einsum")
    if logits is None or logits.constant("equation") != _LOGITS or len(logits.inputs.get("values", ())) != 2:
        return None
    key, transposed = _key(graph, logits.inputs["values"][0])
    return _Head(_part(graph, logits.inputs["values"][1]), key, transposed, _part(graph, value), scale)


def _values(graph: Graph, name: str, axis: int) -> tuple[str, ...]:
    node = graph.made(name, "concat")
    if (
        node is None
        or (node.numbers("axis") or [0])[0] % 4 != axis
        or node.scalar("interleave")
        or "values" not in node.inputs
    ):
        return (name,)
    return node.inputs["values"]


def _attention(output: str, q: str, k: str, v: str, heads: int, scale: float, layout: str, **options: Any) -> Node:
    """Build the node. key_begin, value_begin: first channels in their tensors. transposed: keys are [B, K, 1, C]."""
    chosen = {"key_begin": 0, "value_begin": 0, "transposed": False, **options}
    options = {"heads": heads, "scale": scale, "layout": layout, **chosen}
    return Node("attention", (output,), {"q": (q,), "k": (k,), "v": (v,)}, {}, options)


def _covers(row: list[_Head], first: _Head, own: tuple[int, int], queries: int, keys: int) -> bool:
    """Whether the chunks of a head have its channels of query, key and value, all of its keys, and each query once."""
    reached = 0
    for part in row:
        if (part.query.source, part.key.source, part.value.source, part.scale, part.transposed) != (
            (first.query.source, first.key.source, first.value.source, first.scale, first.transposed)
        ):
            return False
        for stretch, begin in ((part.query, 0), (part.key, first.key.begin[1]), (part.value, first.value.begin[1])):
            if (stretch.begin[1] - begin, stretch.end[1] - begin) != own:
                return False
        for stretch in (part.key, part.value):
            if (stretch.begin[3], stretch.end[3]) != (0, keys):
                return False
        if part.query.begin[3] != reached:
            return False
        reached = part.query.end[3]
    return reached == queries


def _split_heads(graph: Graph, node: Node) -> Node | None:
    """Match Apple's forms: an einsum a head, perhaps a chunk of its queries; all heads side by side in [B, C, 1, S]."""
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
    node = graph.made(name, "reshape")
    source = node.source("x") if node is not None else None
    if node is None or source is None:
        return None
    before, after = graph.shapes[source], graph.shapes[node.output]
    whole = len(before) == len(after) == 4 and before[1] == after[1] * after[2] == channels and before[2] == 1
    return (source, after[1]) if whole and before[3] == after[3] else None


def _one_matmul(graph: Graph, node: Node) -> Node | None:
    """Match the `original` form: every head in one product, [B, heads, d, S]."""
    shape = graph.shapes[node.output]
    mix = graph.made(node.source("x"), "matmul") if node.kind == "reshape" else None
    if mix is None or len(shape) != 4 or shape[2] != 1 or mix.scalar("transpose_x") or not mix.scalar("transpose_y"):
        return None
    inside, scale = _shares(graph, mix.source("y"), 3)
    logits = graph.made(inside, "matmul")
    if logits is None or not logits.scalar("transpose_x") or logits.scalar("transpose_y"):
        return None
    found = [_by_head(graph, name, shape[1]) for name in (logits.source("x"), logits.source("y"), mix.source("x"))]
    if any(f is None or f[1] != found[0][1] for f in found):  # type: ignore[index]
        return None
    q, k, v = (f[0] for f in found if f is not None)
    return _attention(node.output, q, k, v, found[0][1], scale, "channels")  # type: ignore[index]


@dataclass(frozen=True)
class _ByHead:
    """[B, heads, S, d] as rows of channels [B, S, C], and what they were multiplied by on the way."""

    source: str
    heads: int
    factor: float


def _rows_by_head(graph: Graph, name: str | None) -> _ByHead | None:
    inner, after = _scaled(graph, name)
    transposed = graph.made(inner, "transpose")
    if transposed is None or [n % 4 for n in transposed.numbers("perm") or []] != [0, 2, 1, 3]:
        return None
    inside, before = _scaled(graph, transposed.source("x"))
    split = graph.made(inside, "reshape")
    source = split.source("x") if split is not None else None
    if split is None or source is None:
        return None
    flat, shape = graph.shapes[source], graph.shapes[split.output]
    whole = len(flat) == 3 and len(shape) == 4 and flat[:2] == shape[:2] and flat[2] == shape[2] * shape[3]
    return _ByHead(source, shape[2], before * after) if whole else None


def _rows(graph: Graph, node: Node) -> Node | None:
    """Match the form of ct.convert: rows of channels [B, S, C], by scaled_dot_product_attention or by two products."""
    transposed = graph.made(node.source("x"), "transpose") if node.kind == "reshape" else None
    if (
        transposed is None
        or [n % 4 for n in transposed.numbers("perm") or []] != [0, 2, 1, 3]
        or len(graph.shapes[node.output]) != 3
    ):
        return None
    mix = graph.made(transposed.source("x"), "scaled_dot_product_attention", "matmul")
    if mix is None:
        return None
    if mix.kind == "scaled_dot_product_attention":
        if "attn_mask" in mix.inputs or "attn_mask" in mix.constants:
            return None
        names, scale = (mix.source("query"), mix.source("key"), mix.source("value")), None
    else:
        inside, factor = _shares(graph, mix.source("x"), 3)
        logits = graph.made(inside, "matmul")
        if logits is None or mix.scalar("transpose_x") or mix.scalar("transpose_y") or logits.scalar("transpose_x"):
            return None
        if not logits.scalar("transpose_y"):
            return None
        names, scale = (logits.source("x"), logits.source("y"), mix.source("y")), factor
    found = [f for f in (_rows_by_head(graph, name) for name in names) if f is not None]
    if len(found) != 3 or len({f.heads for f in found}) != 1 or found[2].factor != 1:
        return None
    shape = graph.shapes[node.output]
    if shape != graph.shapes[found[0].source]:
        return None
    scale = (shape[2] // found[0].heads) ** -0.5 if scale is None else scale
    scale *= found[0].factor * found[1].factor
    q, k, v = (f.source for f in found)
    return _attention(node.output, q, k, v, found[0].heads, scale, "rows")


def find_attention(graph: Graph, node: Node) -> Node | None:
    """Put one node for an attention without a mask in the place of its last operation."""
    if node.kind in ("concat", "einsum"):
        return _split_heads(graph, node)
    return _one_matmul(graph, node) or _rows(graph, node) if node.kind == "reshape" else None
