"""Passes that remove operations without an effect in this engine: all floats are fp32, so casts between them do nothing."""

from __future__ import annotations

from dataclasses import replace

from converter.runtime.fast.graph import Graph, Node

_FLOATS = ("fp16", "fp32")


def _renamed_value(graph: Graph, node: Node, floats: frozenset[str]) -> str | None:
    """Return the value that a node returns unchanged; None if it does more."""
    x = node.source("x")
    if x is None or len(node.outputs) != 1:
        return None
    if node.kind == "identity":
        return x
    if node.kind == "cast":
        return x if node.constant("dtype") in _FLOATS and x in floats else None
    same = graph.shapes.get(x) == graph.shapes.get(node.output) is not None
    if node.kind in ("reshape", "expand_dims", "squeeze"):
        return x if same else None
    if node.kind == "transpose":
        perm = node.numbers("perm") or []
        return x if [n % len(perm) for n in perm] == list(range(len(perm))) else None
    return None


def drop_casts(graph: Graph, floats: frozenset[str]) -> Graph:
    """Drop casts between floats, identities, and reshapes without an effect. ``floats``: the floating values."""
    names = {}
    for node in graph.nodes:
        source = _renamed_value(graph, node, floats)
        if source is not None and node.output not in graph.outputs:
            names[node.output] = source
    return graph.rename(names)


def _same_rows(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Return whether a reshape keeps the images and each pixel's channels, and only arranges the pixels differently."""
    return len(before) == len(after) == 4 and before[:2] == after[:2]


def before_reshapes(graph: Graph, name: str) -> str:
    """Return the value before reshapes to ``name`` that only arrange the pixels differently; its rows are the same."""
    node = graph.node_of(name, "reshape")
    while (
        node is not None
        and (x := node.source("x")) is not None
        and _same_rows(graph.shapes[x], graph.shapes[node.output])
    ):
        name, node = x, graph.node_of(x, "reshape")
    return name


def skip_reshapes(graph: Graph, node: Node) -> Node | None:
    """Make a layer that takes one pixel at a time read the rows from before such reshapes."""
    if node.kind != "layer" or not node.options["pointwise"]:
        return None
    (x,) = node.inputs["x"]
    before = before_reshapes(graph, x)
    return None if before == x else replace(node, inputs={**node.inputs, "x": (before,)})
