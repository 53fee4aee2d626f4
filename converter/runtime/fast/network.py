"""Compile a package for speed: fuse operations, run wide layers in eight bits, free every tensor after its last use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converter.runtime.fast.folding import drop_casts, skip_reshapes
from converter.runtime.fast.graph import Graph, Shape
from converter.runtime.fast.heads import find_attention
from converter.runtime.fast.kernels import kernels
from converter.runtime.fast.layers import find_layers, find_silu, fuse_gate, fuse_residual, fuse_upsampling
from converter.runtime.fast.lowering import Live, Lowering, Step, Store
from converter.runtime.fast.norms import (
    find_group_norms,
    find_layer_norms,
    fuse_affine,
    fuse_shift,
    fuse_silu,
)
from converter.runtime.fast.rounding import round_layers
from converter.runtime.fast.shapes import DataDependent, infer_shapes
from converter.runtime.feature import Network, check_inputs
from converter.runtime.mil import MILNetwork, OperationError, require_known
from converter.runtime.ops import FAULTS
from converter.runtime.program import Program, read_program

#: Passes in this order; each sees the results of those before it. The affine part of a norm needs two, for its product
#: and its sum.
_REWRITES = (
    find_attention, find_group_norms, find_layer_norms, find_silu, fuse_affine, fuse_affine, fuse_silu,
    fuse_shift, find_layers, fuse_upsampling, fuse_gate, skip_reshapes, fuse_residual,
)  # fmt: skip


def _floats(program: Program) -> frozenset[str]:
    names = {
        n for op in program.operations for n, dtype in zip(op.outputs, op.dtypes, strict=True) if dtype.kind == "f"
    }
    return frozenset(names | {n for n, feature in program.inputs.items() if feature.dtype.kind == "f"})


def fuse(program: Program, shapes: Mapping[str, Shape]) -> Graph:
    """Return the program's graph with one node for each fused operation, still in fp32."""
    graph = drop_casts(Graph.of(program, shapes).without_unused(), _floats(program))
    for replace in _REWRITES:
        graph = graph.rewrite(replace)
    return graph


def _shapes(program: Program, inputs: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Return every value's shape for input shapes; raises DataDependent."""
    shapes = dict(inputs)
    for op in program.operations:
        for name, shape in zip(op.outputs, op.shapes, strict=True):
            if shape is None:
                return infer_shapes(program, inputs)
            shapes[name] = shape
    return shapes


class FastNetwork:
    """A package that runs on fused kernels, or, on a machine without them, on fused PyTorch in fp32.

    A program with flexible shapes is compiled for each input shape; all share the weights.
    """

    def __init__(self, path: Path, function: str | None = None) -> None:
        """Raises DataDependent if a shape depends on values or the network has states, UnsupportedOperator, PackageError."""
        self._program = read_program(path, function)
        if self._program.states:
            raise DataDependent(f"{path.name} has states: {', '.join(self._program.states)}")
        require_known(path, self._program)
        self.inputs, self.outputs = self._program.inputs, self._program.outputs
        self._store = Store(kernels())
        self._compiled: dict[tuple[Shape, ...], list[Step]] = {}
        self._steps({name: feature.shape for name, feature in self.inputs.items()})

    def _steps(self, shapes: Mapping[str, Shape]) -> list[Step]:
        key = tuple(shapes[name] for name in self.inputs)
        if key not in self._compiled:
            graph = fuse(self._program, _shapes(self._program, shapes))
            graph = round_layers(graph) if self._store.kernels is not None else graph
            self._compiled[key] = Lowering(graph, self._store).steps()
        return self._compiled[key]

    @torch.inference_mode()
    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network once.

        Raises InputError before anything runs and OperationError if an operation does not accept its arguments.
        """
        live: Live = {}
        for name, array in check_inputs(inputs, self.inputs).items():
            copied = array.astype(np.float32) if array.dtype.kind == "f" else np.array(array)
            live[name] = torch.from_numpy(copied)
        try:
            steps = self._steps({name: tuple(tensor.shape) for name, tensor in live.items()})
        except DataDependent as error:
            raise OperationError(str(error)) from error
        for step in steps:
            try:
                result = step.run(live)
            except FAULTS as error:
                raise OperationError(f"{step.node.kind} {', '.join(step.node.outputs)}: {error}") from error
            live |= zip(step.node.outputs, result if isinstance(result, list) else [result], strict=True)
            for name in step.freed:
                del live[name]
        return {n: live[n].contiguous().numpy().astype(f.dtype, copy=False) for n, f in self.outputs.items()}


def compile_fast(path: Path, function: str | None = None) -> Network:
    """Compile a package; one that has states, or shapes that depend on values, runs operation by operation."""
    try:
        return FastNetwork(path, function)
    except DataDependent:
        return MILNetwork(path, function)
