"""Passes that replace the operations by which Core ML programs write norms by one node."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.runtime.fast.graph import Graph, Node

Vector = NDArray[Any]


def _mean_of(graph: Graph, name: str | None) -> tuple[str, list[int]] | None:
    """Return the operand and the axes of a reduce_mean with keep_dims."""
    node = graph.node_of(name, "reduce_mean")
    if node is None or not node.scalar("keep_dims") or (x := node.source("x")) is None:
        return None
    rank = len(graph.shapes[x])
    return x, sorted(a % rank for a in node.numbers("axes") or range(rank))


def _squared(graph: Graph, name: str | None) -> str | None:
    node = graph.node_of(name, "square", "mul", "pow")
    if node is None or (x := node.source("x")) is None:
        return None
    squared = node.kind == "square" or (node.kind == "mul" and node.source("y") == x)
    return x if squared or (node.kind == "pow" and node.scalar("y") == 2) else None


def _plus(graph: Graph, name: str | None) -> tuple[str, float] | None:
    """Match a tensor plus a number."""
    node = graph.node_of(name, "add")
    if node is None:
        return None
    for tensor, number in (("x", "y"), ("y", "x")):
        source, added = node.source(tensor), node.scalar(number)
        if source is not None and added is not None:
            return source, added
    return None


def _inverse_deviation(graph: Graph, node: Node) -> tuple[str, str, float] | None:
    """Match ``centered / sqrt(variance + epsilon)`` in either form: centered, variance, epsilon."""
    if node.kind == "real_div":
        root = graph.node_of(node.source("y"), "sqrt")
        sum_ = _plus(graph, root.source("x")) if root is not None else None
        centered = node.source("x")
        return (centered, *sum_) if centered is not None and sum_ is not None else None
    for one, other in (("x", "y"), ("y", "x")):
        root = graph.node_of(node.source(one), "rsqrt")
        centered = node.source(other)
        if root is None or centered is None or (inside := root.source("x")) is None:
            continue
        small = root.scalar("epsilon")
        sum_ = _plus(graph, inside)
        if sum_ is not None:
            return centered, sum_[0], sum_[1] + (1e-12 if small is None else small)
        if small is not None:
            return centered, inside, small
    return None


def _normalized(graph: Graph, name: str | None) -> tuple[str, list[int], float] | None:
    """Match a normalized value: its source, axes, epsilon."""
    node = graph.node_of(name, "real_div", "mul")
    match = _inverse_deviation(graph, node) if node is not None else None
    if match is None:
        return None
    centered, variance, epsilon = match
    difference, squares = graph.node_of(centered, "sub"), _mean_of(graph, variance)
    if difference is None or squares is None or _squared(graph, squares[0]) != centered:
        return None
    mean = _mean_of(graph, difference.source("y"))
    source = difference.source("x")
    return (source, mean[1], epsilon) if mean is not None and source == mean[0] and mean[1] == squares[1] else None


def _grouped(graph: Graph, name: str | None) -> tuple[str, int, float] | None:
    """Match a group-normalized value [B, C, H, W] or [B, C, S]: its source, groups, epsilon."""
    last = graph.node_of(name, "reshape")
    normalized = _normalized(graph, last.source("x")) if last is not None else None
    if last is None or normalized is None:
        return None
    groups = graph.node_of(normalized[0], "reshape")
    if groups is None or (source := groups.source("x")) is None:
        return None
    before, inside, after = graph.shapes[source], graph.shapes[normalized[0]], graph.shapes[last.output]
    if before != after or len(before) not in (3, 4) or inside[0] != before[0] or before[1] % inside[1]:
        return None
    split = inside[2:] in ((before[1] // inside[1], *before[2:]), (math.prod(before[1:]) // inside[1],))
    return (source, inside[1], normalized[2]) if split and normalized[1] == list(range(2, len(inside))) else None


def _batch_affine(node: Node) -> tuple[Vector, Vector] | None:
    """Return a batch_norm's factor and summand of each channel."""
    mean, variance = node.constant("mean"), node.constant("variance")
    if mean is None or variance is None:
        return None
    gamma, beta, epsilon = node.constant("gamma"), node.constant("beta"), node.scalar("epsilon")
    one, zero = np.ones(mean.shape, np.float32), np.zeros(mean.shape, np.float32)
    scale = (one if gamma is None else gamma) / np.sqrt(
        variance.astype(np.float64) + (1e-5 if epsilon is None else epsilon)
    )
    return scale.astype(np.float32), ((zero if beta is None else beta) - mean * scale).astype(np.float32)


def _norm(source: str, output: str, gamma: Vector, beta: Vector, **options: Any) -> Node:
    options = {"silu": False, "shifted": False, **options}
    return Node("group_norm", (output,), {"x": (source,)}, {"gamma": [gamma], "beta": [beta]}, options)


def find_group_norms(graph: Graph, node: Node) -> Node | None:
    """Return a group norm (Wu and He 2018) that ends at this node; an affine part other than a batch_norm stays apart."""
    if node.kind == "batch_norm":
        norm, affine = _grouped(graph, node.source("x")), _batch_affine(node)
        if norm is None or affine is None:
            return None
        return _norm(norm[0], node.output, *affine, groups=norm[1], epsilon=norm[2])
    if node.kind != "reshape" or (norm := _grouped(graph, node.output)) is None:
        return None
    channels = graph.shapes[node.output][1]
    return _norm(
        norm[0],
        node.output,
        np.ones(channels, np.float32),
        np.zeros(channels, np.float32),
        groups=norm[1],
        epsilon=norm[2],
    )


def find_layer_norms(graph: Graph, node: Node) -> Node | None:
    """Match layer_norm over the channels of a pixel or a row, the forms that the kernels have."""
    if node.kind != "layer_norm" or (x := node.source("x")) is None:
        return None
    shape, axes = graph.shapes[x], node.numbers("axes")
    if axes is None or len(axes) != 1 or len(shape) not in (3, 4):
        return None
    axis = axes[0] % len(shape)
    if axis != (1 if len(shape) == 4 else 2):
        return None
    gamma, beta, epsilon = node.constant("gamma"), node.constant("beta"), node.scalar("epsilon")
    width = shape[axis]
    constants = {
        "gamma": [np.ones(width, np.float32) if gamma is None else gamma.reshape(-1)],
        "beta": [np.zeros(width, np.float32) if beta is None else beta.reshape(-1)],
    }
    options = {"epsilon": 1e-5 if epsilon is None else epsilon}
    return Node("channel_norm", node.outputs, {"x": (x,)}, constants, options)


def _per_channel(graph: Graph, node: Node, tensor: str, other: str) -> tuple[str, Vector] | None:
    """Return a norm's output and the constant, one number per channel, that an operation applies to it."""
    x, value = node.source(tensor), node.constant(other)
    norm = graph.node_of(x, "group_norm", "channel_norm")
    if x is None or value is None or isinstance(value, str) or norm is None:
        return None
    shape = graph.shapes[x]
    axis = 1 if len(shape) == 4 or norm.kind == "group_norm" else len(shape) - 1
    aligned = (1,) * (len(shape) - value.ndim) + value.shape
    if value.size == 1:
        return x, np.full(shape[axis], value.reshape(-1)[0], np.float32)
    expected = tuple(shape[axis] if i == axis else 1 for i in range(len(shape)))
    return (x, value.reshape(-1).astype(np.float32)) if aligned == expected else None


def fuse_affine(graph: Graph, node: Node) -> Node | None:
    """Fuse a multiplication or addition of one constant per channel into the norm before it."""
    if node.kind not in ("mul", "add"):
        return None
    operands = _per_channel(graph, node, "x", "y") or _per_channel(graph, node, "y", "x")
    if operands is None or not graph.used_once(operands[0]):
        return None
    norm = graph.producer[operands[0]]
    gamma, beta = norm.constant("gamma").astype(np.float32), norm.constant("beta").astype(np.float32)
    if norm.options.get("silu"):
        return None
    if node.kind == "mul":
        gamma, beta = gamma * operands[1], beta * operands[1]
    else:
        beta = beta + operands[1]
    return Node(norm.kind, node.outputs, norm.inputs, {"gamma": [gamma], "beta": [beta]}, norm.options)


def fuse_silu(graph: Graph, node: Node) -> Node | None:
    """Fuse a silu into the group norm before it."""
    norm = graph.node_of(node.source("x"), "group_norm") if node.kind == "silu" else None
    if norm is None or not graph.used_once(norm.output):
        return None
    return Node(norm.kind, node.outputs, norm.inputs, norm.constants, {**norm.options, "silu": True})


def fuse_shift(graph: Graph, node: Node) -> Node | None:
    """Fuse the addition of the time embedding, one number per image and channel, into the group norm after it."""
    added = (
        graph.node_of(node.source("x"), "add") if node.kind == "group_norm" and not node.options["shifted"] else None
    )
    if added is None or not graph.used_once(added.output):
        return None
    shape = graph.shapes[added.output]
    for one, other in (("x", "y"), ("y", "x")):
        x, shift = added.source(one), added.source(other)
        if x is None or shift is None or graph.shapes[x] != shape:
            continue
        if graph.shapes[shift] == (*shape[:2], 1, 1) and shape[2:] != (1, 1):
            return Node(
                node.kind,
                node.outputs,
                {"x": (x,), "shift": (shift,)},
                node.constants,
                {**node.options, "shifted": True},
            )
    return None
