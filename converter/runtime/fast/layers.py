"""Passes that make one layer of a convolution or linear and what surrounds it: bias, residual, gating, doubling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from converter.runtime.fast.folding import respaced
from converter.runtime.fast.graph import Graph, Node


def find_silu(graph: Graph, node: Node) -> Node | None:
    """Rewrite ``x * sigmoid(x)`` as one silu."""
    if node.kind != "mul":
        return None
    for one, other in (("x", "y"), ("y", "x")):
        gate = graph.made(node.source(one), "sigmoid")
        if gate is not None and gate.source("x") == node.source(other) is not None:
            return Node("silu", node.outputs, {"x": gate.inputs["x"]})
    return None


def find_layers(graph: Graph, node: Node) -> Node | None:
    """Rewrite convolutions of two dimensions without groups or dilation, and linears, as layers."""
    if (x := node.source("x")) is None or node.constant("weight") is None:
        return None
    bias = {"bias": node.constants["bias"]} if "bias" in node.constants else {}
    if "bias" in node.inputs:
        return None
    options: dict[str, Any] = {
        "up": False,
        "gated": False,
        "pointwise": True,
        "stride": 1,
        "pad": (0, 0),
        "layout": "channels",
    }
    if node.kind == "linear" and len(graph.shapes[x]) >= 2:
        options["layout"] = "rows"
    elif node.kind == "conv" and len(graph.shapes[x]) == 4:
        strides, dilations = node.numbers("strides") or [1, 1], node.numbers("dilations") or [1, 1]
        kind, pad = node.constant("pad_type") or "valid", node.numbers("pad") or [0, 0, 0, 0]
        if (node.scalar("groups") or 1) != 1 or dilations != [1, 1] or strides[0] != strides[1]:
            return None
        if kind not in ("valid", "custom"):
            return None
        pad = pad if kind == "custom" else [0, 0, 0, 0]
        window = node.constants["weight"][0].shape[2:]  # type: ignore[union-attr]
        pointwise = window == (1, 1) and strides == [1, 1] and pad == [0, 0, 0, 0]
        options |= {"stride": strides[0], "pad": (pad[0], pad[2]), "pads": tuple(pad), "pointwise": pointwise}
    else:
        return None
    return Node("layer", node.outputs, {"x": (x,)}, {"weight": node.constants["weight"], **bias}, options)


def take_in_doubling(graph: Graph, node: Node) -> Node | None:
    """Have a convolution do the nearest upsampling by two right before it as it reads."""
    if node.kind != "layer" or node.options["up"] or node.options["layout"] != "channels" or node.options["pointwise"]:
        return None
    up = graph.made(node.source("x"), "upsample_nearest_neighbor")
    if up is None or (x := up.source("x")) is None:
        return None
    if (up.scalar("scale_factor_height"), up.scalar("scale_factor_width")) != (2, 2) or node.options["stride"] != 1:
        return None
    return replace(node, inputs={**node.inputs, "x": (x,)}, options={**node.options, "up": True})


def _half(graph: Graph, name: str | None) -> tuple[str, int] | None:
    """Return the tensor that was split into two equal halves of its channels, and which half this is."""
    node = graph.made(name, "split")
    if node is None or name is None or len(node.outputs) != 2 or (x := node.source("x")) is None:
        return None
    shape = graph.shapes[x]
    axis = (node.numbers("axis") or [0])[0] % len(shape)
    if (
        axis != (1 if len(shape) == 4 else len(shape) - 1)
        or graph.shapes[node.outputs[0]] != graph.shapes[node.outputs[1]]
    ):
        return None
    return x, node.outputs.index(name)


def take_in_gate(graph: Graph, node: Node) -> Node | None:
    """Have a layer do the GEGLU (Shazeer 2020) right after it: half of its channels times the gelu of the others."""
    if node.kind != "mul":
        return None
    for one, other in (("x", "y"), ("y", "x")):
        gate = graph.made(node.source(one), "gelu")
        if gate is None or (gate.constant("mode") or "EXACT") != "EXACT":
            continue
        kept, gated = _half(graph, node.source(other)), _half(graph, gate.source("x"))
        if kept is None or gated is None or kept[0] != gated[0] or (kept[1], gated[1]) != (0, 1):
            continue
        layer = graph.made(kept[0], "layer")
        if layer is None or "residual" in layer.inputs or not layer.options["pointwise"]:
            continue
        if [u.kind for u in graph.users[layer.output]] == ["split"] and layer.output not in graph.wanted:
            return replace(layer, outputs=node.outputs, options={**layer.options, "gated": True})
    return None


def take_in_residual(graph: Graph, node: Node) -> Node | None:
    """Have a layer do the addition of a tensor of the same rows right after it."""
    if node.kind != "add":
        return None
    for one, other in (("y", "x"), ("x", "y")):
        name, residual = node.source(one), node.source(other)
        if name is None or residual is None or graph.shapes[residual] != graph.shapes[node.output] or name == residual:
            continue
        before = respaced(graph, name)
        layer = graph.made(before, "layer")
        if (
            layer is None
            or "residual" in layer.inputs
            or layer.options["gated"]
            or graph.shapes[name] != graph.shapes[node.output]
        ):
            continue
        if graph.alone(name) and (before == name or graph.alone(before)):
            return replace(layer, outputs=node.outputs, inputs={**layer.inputs, "residual": (residual,)})
    return None
