"""Passes that take out what does nothing in this engine: floats are fp32 throughout, so casts between them are names."""

from __future__ import annotations

from dataclasses import replace

from converter.runtime.fast.graph import Graph, Node

_FLOATS = ("fp16", "fp32")


def _renamed_value(graph: Graph, node: Node, floats: frozenset[str]) -> str | None:
    """Return the value that a node only passes on; None if it does more."""
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
    """Drop casts between floats, identities, and reshapes that change nothing. ``floats``: the floating values."""
    names = {}
    for node in graph.nodes:
        passed = _renamed_value(graph, node, floats)
        if passed is not None and node.output not in graph.wanted:
            names[node.output] = passed
    return graph.renamed(names)


def _same_rows(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether a reshape keeps the images, and the channels of each pixel, and only writes the pixels otherwise."""
    return len(before) == len(after) == 4 and before[:2] == after[:2]


def respaced(graph: Graph, name: str) -> str:
    """Return the value whose rows of channels ``name`` has, before reshapes that only write the pixels otherwise."""
    node = graph.made(name, "reshape")
    while (
        node is not None
        and (x := node.source("x")) is not None
        and _same_rows(graph.shapes[x], graph.shapes[node.output])
    ):
        name, node = x, graph.made(x, "reshape")
    return name


def pass_respaced(graph: Graph, node: Node) -> Node | None:
    """Have a layer that looks at one pixel at a time read the rows as they were before such reshapes."""
    if node.kind != "layer" or not node.options["pointwise"]:
        return None
    (x,) = node.inputs["x"]
    before = respaced(graph, x)
    return None if before == x else replace(node, inputs={**node.inputs, "x": (before,)})
