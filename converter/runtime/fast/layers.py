"""Passes that fuse a convolution or linear with its bias, residual, gating and upsampling into one layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from converter.runtime.fast.folding import before_reshapes
from converter.runtime.fast.graph import Graph, Node


def find_silu(graph: Graph, node: Node) -> Node | None:
    """Rewrite ``x * sigmoid(x)`` as one silu."""
    if node.kind != "mul":
        return None
    for one, other in (("x", "y"), ("y", "x")):
        gate = graph.node_of(node.source(one), "sigmoid")
        if gate is not None and gate.source("x") == node.source(other) is not None:
            return Node("silu", node.outputs, {"x": gate.inputs["x"]})
    return None


def find_layers(graph: Graph, node: Node) -> Node | None:
    """Rewrite linears, and two-dimensional convolutions without groups or dilation, as layers."""
    if (x := node.source("x")) is None or "weight" not in node.constants:
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


def fuse_upsampling(graph: Graph, node: Node) -> Node | None:
    """Fuse a nearest upsampling by two into the convolution after it."""
    if node.kind != "layer" or node.options["up"] or node.options["layout"] != "channels" or node.options["pointwise"]:
        return None
    up = graph.node_of(node.source("x"), "upsample_nearest_neighbor")
    if up is None or (x := up.source("x")) is None:
        return None
    if (up.scalar("scale_factor_height"), up.scalar("scale_factor_width")) != (2, 2) or node.options["stride"] != 1:
        return None
    return replace(node, inputs={**node.inputs, "x": (x,)}, options={**node.options, "up": True})


def _half(graph: Graph, name: str | None) -> tuple[str, int] | None:
    """Return the tensor whose channels were split into two equal halves, and the index of this half."""
    node = graph.node_of(name, "split")
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


def fuse_gate(graph: Graph, node: Node) -> Node | None:
    """Fuse a GEGLU (Shazeer 2020: half of the channels times the gelu of the others) into the layer before it."""
    if node.kind != "mul":
        return None
    for one, other in (("x", "y"), ("y", "x")):
        gate = graph.node_of(node.source(one), "gelu")
        if gate is None or (gate.constant("mode") or "EXACT") != "EXACT":
            continue
        values, gated = _half(graph, node.source(other)), _half(graph, gate.source("x"))
        if values is None or gated is None or values[0] != gated[0] or (values[1], gated[1]) != (0, 1):
            continue
        layer = graph.node_of(values[0], "layer")
        if layer is None or "residual" in layer.inputs or not layer.options["pointwise"]:
            continue
        if [u.kind for u in graph.users[layer.output]] == ["split"] and layer.output not in graph.outputs:
            return replace(layer, outputs=node.outputs, options={**layer.options, "gated": True})
    return None


def fuse_residual(graph: Graph, node: Node) -> Node | None:
    """Fuse the addition of a tensor with the same rows into the layer before it."""
    if node.kind != "add":
        return None
    for one, other in (("y", "x"), ("x", "y")):
        name, residual = node.source(one), node.source(other)
        if name is None or residual is None or graph.shapes[residual] != graph.shapes[node.output] or name == residual:
            continue
        before = before_reshapes(graph, name)
        layer = graph.node_of(before, "layer")
        if (
            layer is None
            or "residual" in layer.inputs
            or layer.options["gated"]
            or graph.shapes[name] != graph.shapes[node.output]
        ):
            continue
        if graph.used_once(name) and (before == name or graph.used_once(before)):
            return replace(layer, outputs=node.outputs, inputs={**layer.inputs, "residual": (residual,)})
    return None
