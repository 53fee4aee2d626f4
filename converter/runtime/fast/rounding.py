"""A pass that decides which layers compute in eight bits, and where their inputs are rounded."""

from __future__ import annotations

import math
from dataclasses import replace

from converter.runtime.fast.graph import Graph, Node

#: Narrower layers (of latents or the image) cost almost no time, and every value passes through them.
_NARROWEST = 32
#: Layers of fewer rows are the time embedding's, which shift whole channels; they only take the time to read their weights.
_FEWEST_ROWS = 16


def _row_count(graph: Graph, node: Node) -> int:
    shape = graph.shapes[node.output]
    return math.prod(shape) // (shape[1] if node.options["layout"] == "channels" else shape[-1])


def _is_shortcut(graph: Graph, node: Node) -> bool:
    """Return whether a layer is a block's shortcut: it reads the same value as a norm, and all earlier results pass through.

    In eight bits, shortcuts alone would cost 7 of 42 dB (Stable Diffusion 1.5's UNet); in fp32 they cost 4 % of its time.
    """
    (x,) = node.inputs["x"]
    return bool(node.options["pointwise"]) and any(user.kind == "group_norm" for user in graph.users[x])


def _eligible(graph: Graph, node: Node) -> bool:
    if node.kind != "layer" or _is_shortcut(graph, node):
        return False
    out, channels = node.constants["weight"][0].shape[:2]  # type: ignore[union-attr]
    wide = min(out, channels) >= _NARROWEST and channels % 4 == 0 and not (node.options["gated"] and out % 64)
    return wide and _row_count(graph, node) >= _FEWEST_ROWS


def _rounding_norms(graph: Graph, chosen: set[str]) -> set[str]:
    """Return the norms whose results only ``chosen`` layers read, and only as their main input."""
    norms = set()
    for node in graph.nodes:
        if node.kind not in ("group_norm", "channel_norm") or node.output in graph.outputs:
            continue
        users = graph.users.get(node.output, [])
        as_input = all(u.output in chosen and u.source("residual") != node.output for u in users if u.kind == "layer")
        by_row = node.kind == "channel_norm"
        if as_input and all(u.kind == "layer" and (u.options["pointwise"] or not by_row) for u in users):
            norms.add(node.output)
    return norms


def _rows_node(graph: Graph, x: str, name: str, by: str, layout: str) -> Node:
    """Return the node that gives the rounded rows of ``x``: where the program quantized it itself, those very integers."""
    integers = graph.node_of(x, "dequantize")
    source = None if integers is None else integers.source("input")
    if integers is not None and source is not None:
        scale = integers.scalar("scale")
        zero = integers.scalar("zero_point") if "zero_point" in {*integers.constants, *integers.inputs} else 0.0
        if scale is not None and zero is not None:
            return Node(
                "quantized_rows", (name,), {"x": (source,)}, {}, {"scale": scale, "zero": zero, "layout": layout}
            )
    return Node("round_rows", (name,), {"x": (x,)}, {}, {"by": by, "layout": layout})


def round_layers(graph: Graph) -> Graph:
    """Make eligible layers read rounded rows: from the norm before them, or through a node of their own.

    Each row of a pointwise layer may have its own scale; a window over several rows needs one scale for the image.
    Networks without windows are text encoders: they run once per image, and the whole image depends on them, so they are
    not rounded.
    """
    if all(node.options["pointwise"] for node in graph.nodes if node.kind == "layer"):
        return graph
    chosen = {node.output for node in graph.nodes if _eligible(graph, node)}
    norms = _rounding_norms(graph, chosen)
    nodes: list[Node] = []
    shapes, made = dict(graph.shapes), set()
    for node in graph.nodes:
        if node.outputs[0] in norms:
            nodes.append(replace(node, options={**node.options, "rounded": True}))
            continue
        if node.outputs[0] not in chosen:
            nodes.append(node)
            continue
        (x,) = node.inputs["x"]
        if x not in norms:
            by = "row" if node.options["pointwise"] else "image"
            name = f"{x}|{by}"
            if name not in made:
                made.add(name)
                shapes[name] = shapes[x]
                nodes.append(_rows_node(graph, x, name, by, node.options["layout"]))
            node = replace(node, inputs={**node.inputs, "x": (name,)})
        nodes.append(replace(node, options={**node.options, "rounded": True}))
    return Graph(nodes, shapes, graph.outputs).without_unused()
