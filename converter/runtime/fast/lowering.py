"""Lower a graph to steps: the function of each node, and the values to free after it.

Values are fp32 PyTorch tensors with the program's shapes. Images have their channels last in memory, so that a pixel's
channels are a row, and the kernels' inputs and outputs are views.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from converter.runtime.compressed import Value, release
from converter.runtime.fast.graph import Graph, Node, Shape
from converter.runtime.fast.kernels import Kernels, Rounded, Weights
from converter.runtime.ops import OPERATORS, TUPLES
from converter.runtime.ops.parameter import to_tensor

Live = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One node ready to run."""

    node: Node
    run: Callable[[Live], Any]
    freed: tuple[str, ...]


def _vector(node: Node, name: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(node.constant(name), np.float32))


def rows_of(x: Tensor, layout: str) -> Tensor:
    """Return a tensor's rows of channels, [rows, channels], a view wherever its memory allows."""
    last = x.permute(0, *range(2, x.ndim), 1) if layout == "channels" else x
    return last.reshape(-1, last.shape[-1]).contiguous()


def as_tensor(rows: Tensor, shape: Shape, layout: str) -> Tensor:
    """Return rows of channels as a tensor of the program's shape."""
    if layout != "channels":
        return rows.view(shape)
    return rows.view(shape[0], *shape[2:], shape[1]).permute(0, len(shape) - 1, *range(1, len(shape) - 1))


class Store:
    """A program's constants in the form of the steps, shared by all graphs of the program.

    kernels: None on a machine without them.
    """

    def __init__(self, kernels: Kernels | None) -> None:
        self.kernels = kernels
        self._tensors: dict[int, Any] = {}
        self._packed: dict[tuple[int, bool], Weights] = {}

    def tensor(self, value: Value) -> Any:
        """Return a constant for operators: floats in fp32."""
        if id(value) not in self._tensors:
            self._tensors[id(value)] = to_tensor(value)
            release(value)
        return self._tensors[id(value)]

    def packed(self, node: Node) -> Weights:
        """Return a layer's weights in eight bits."""
        value, gated = node.constants["weight"][0], bool(node.options["gated"])
        if (id(value), gated) not in self._packed:
            assert self.kernels is not None
            weight, bias = node.constant("weight"), node.constant("bias")
            self._packed[id(value), gated] = self.kernels.pack(weight, bias, gated=gated)
            release(value)
        return self._packed[id(value), gated]


class Lowering:
    """Lowers a graph to steps; its rounded layers run on the kernels."""

    def __init__(self, graph: Graph, store: Store) -> None:
        self._graph, self._store, self._kernels = graph, store, store.kernels

    def steps(self) -> list[Step]:
        """Return the graph's steps in order."""
        last: dict[str, int] = {}
        for index, node in enumerate(self._graph.nodes):
            last |= dict.fromkeys((*node.sources, *node.outputs), index)
        steps = []
        for index, node in enumerate(self._graph.nodes):
            names = dict.fromkeys((*node.sources, *node.outputs))
            freed = tuple(n for n in names if last[n] == index and n not in self._graph.outputs)
            steps.append(Step(node, self._run(node), freed))
        return steps

    def _run(self, node: Node) -> Callable[[Live], Any]:
        make: Mapping[str, Callable[[Node], Callable[[Live], Any]]] = {
            "group_norm": self._group_norm,
            "channel_norm": self._channel_norm,
            "attention": self._attention,
            "quantized_rows": self._quantized_rows,
            "round_rows": self._round_rows,
            "layer": self._layer,
        }
        return make.get(node.kind, self._operator)(node)

    def _operator(self, node: Node) -> Callable[[Live], Any]:
        operator = OPERATORS[node.kind]
        constants = {
            name: [self._store.tensor(v) for v in values] if name in TUPLES else self._store.tensor(values[0])
            for name, values in node.constants.items()
        }
        inputs = tuple(node.inputs.items())

        def run(live: Live) -> Any:
            tensors = {n: [live[s] for s in names] if n in TUPLES else live[names[0]] for n, names in inputs}
            return operator(**constants, **tensors)

        return run

    def _group_norm(self, node: Node) -> Callable[[Live], Any]:
        (x,), shift = node.inputs["x"], node.source("shift")
        gamma, beta = _vector(node, "gamma"), _vector(node, "beta")
        groups, epsilon, silu = node.options["groups"], node.options["epsilon"], node.options["silu"]
        kernels, shape, rounded = self._kernels, self._graph.shapes[node.output], node.options.get("rounded", False)
        if kernels is None:

            def plain(live: Live) -> Tensor:
                shifted = live[x] if shift is None else live[x] + live[shift]
                result = F.group_norm(shifted, groups, gamma, beta, epsilon)
                return F.silu(result) if silu else result

            return plain

        def run(live: Live) -> Any:
            added = None if shift is None else live[shift].reshape(shape[0], -1).contiguous()
            result = kernels.group_norm(
                rows_of(live[x], "channels"), shape[0], groups, epsilon, gamma, beta, added, silu=silu, rounded=rounded
            )
            return result if isinstance(result, Rounded) else as_tensor(result, shape, "channels")

        return run

    def _channel_norm(self, node: Node) -> Callable[[Live], Any]:
        (x,) = node.inputs["x"]
        gamma, beta, epsilon = _vector(node, "gamma"), _vector(node, "beta"), node.options["epsilon"]
        kernels, shape, rounded = self._kernels, self._graph.shapes[node.output], node.options.get("rounded", False)
        layout = "channels" if len(shape) == 4 else "rows"
        if kernels is None:

            def plain(live: Live) -> Tensor:
                return as_tensor(
                    F.layer_norm(rows_of(live[x], layout), gamma.shape, gamma, beta, epsilon), shape, layout
                )

            return plain

        def run(live: Live) -> Any:
            result = kernels.channel_norm(rows_of(live[x], layout), epsilon, gamma, beta, rounded=rounded)
            return result if isinstance(result, Rounded) else as_tensor(result, shape, layout)

        return run

    def _attention(self, node: Node) -> Callable[[Live], Any]:
        (q,), (k,), (v,) = (node.inputs[name] for name in ("q", "k", "v"))
        heads, scale, layout = node.options["heads"], node.options["scale"], node.options["layout"]
        key_layout = "rows" if node.options["transposed"] else layout
        key_begin, value_begin = node.options["key_begin"], node.options["value_begin"]
        kernels, shape = self._kernels, self._graph.shapes[node.output]
        batch, width = shape[0], shape[1 if layout == "channels" else -1]

        def run(live: Live) -> Tensor:
            queries = rows_of(live[q], layout)
            keys = rows_of(live[k], key_layout)[:, key_begin : key_begin + width]
            values = rows_of(live[v], layout)[:, value_begin : value_begin + width]
            if kernels is not None:
                return as_tensor(kernels.attention(queries, keys, values, batch, heads, scale), shape, layout)
            split = [x.view(batch, -1, heads, width // heads).transpose(1, 2) for x in (queries, keys, values)]
            result = F.scaled_dot_product_attention(split[0], split[1], split[2], scale=scale).transpose(1, 2)
            return as_tensor(result.reshape(-1, width), shape, layout)

        return run

    def _round_rows(self, node: Node) -> Callable[[Live], Any]:
        (x,), layout, kernels = node.inputs["x"], node.options["layout"], self._kernels
        images = self._graph.shapes[x][0] if node.options["by"] == "image" else None
        assert kernels is not None
        return lambda live: kernels.round_rows(rows_of(live[x], layout), images)

    def _quantized_rows(self, node: Node) -> Callable[[Live], Any]:
        (x,), layout, scale, zero = node.inputs["x"], *(node.options[name] for name in ("layout", "scale", "zero"))

        def run(live: Live) -> Rounded:
            q, above, images = rows_of(live[x], layout), zero, live[x].shape[0]
            if q.dtype == torch.int8:
                q, above = q.view(torch.uint8) ^ 128, zero + 128
            scales, zeros = (torch.full((len(q),), value, dtype=torch.float32) for value in (scale, above))
            return Rounded(q, scales, zeros, torch.full((images, q.shape[1]), int(above), dtype=torch.uint8))

        return run

    def _layer(self, node: Node) -> Callable[[Live], Any]:
        return self._rounded_layer(node) if node.options.get("rounded") else self._plain_layer(node)

    def _rounded_layer(self, node: Node) -> Callable[[Live], Any]:
        (x,), residual, options = node.inputs["x"], node.source("residual"), node.options
        weights, kernels = self._store.packed(node), self._kernels
        assert kernels is not None
        before, shape, layout = self._graph.shapes[x], self._graph.shapes[node.output], options["layout"]
        size: Shape = node.constants["weight"][0].shape  # type: ignore[union-attr]
        columns = size[0] // (2 if options["gated"] else 1)
        image = (before[0], *before[2:]) if layout == "channels" else (1, 1, math.prod(before[:-1]))
        out = shape[2:] if layout == "channels" else (1, math.prod(shape[:-1]))
        if options["pointwise"]:  # a reshape may have arranged the pixels differently
            image, out = (1, 1, math.prod(image)), (1, math.prod(image))
        window = size[2:] or (1, 1)
        arguments = {
            "image": image, "out": out, "window": window, "columns": columns, "stride": options["stride"],
            "pad": options["pad"], "up": options["up"], "gated": options["gated"],
        }  # fmt: skip

        def run(live: Live) -> Tensor:
            added = None if residual is None else rows_of(live[residual], layout)
            return as_tensor(kernels.product(live[x], weights, residual=added, **arguments), shape, layout)

        return run

    def _plain_layer(self, node: Node) -> Callable[[Live], Any]:
        (x,), residual, options = node.inputs["x"], node.source("residual"), node.options
        weight, bias = self._store.tensor(node.constants["weight"][0]), None
        if "bias" in node.constants:
            bias = self._store.tensor(node.constants["bias"][0]).reshape(-1)
        if weight.ndim == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        layout, shape = options["layout"], self._graph.shapes[node.output]

        def run(live: Live) -> Tensor:
            source = live[x]
            if layout != "channels":
                result = F.linear(source, weight, bias)
            elif options["pointwise"]:
                result = as_tensor(
                    F.linear(rows_of(source, layout), weight[:, :, 0, 0], bias),
                    (shape[0], weight.shape[0], *shape[2:]),
                    layout,
                )
            else:
                if options["up"]:
                    source = F.interpolate(source, scale_factor=2, mode="nearest")
                top, bottom, left, right = options["pads"]
                if (top, left) != (bottom, right):
                    source, top, left = F.pad(source, (left, right, top, bottom)), 0, 0
                result = F.conv2d(source, weight, bias, options["stride"], (top, left))
            if options["gated"]:
                values, gate = result.chunk(2, 1 if layout == "channels" else -1)
                result = values * F.gelu(gate)
            return result if residual is None else result + live[residual]

        return run
