"""A package compiled for speed: fused, its wide layers in eight bits, every tensor freed at its last use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converter.runtime.fast.folding import drop_casts, pass_respaced
from converter.runtime.fast.graph import Graph, Shape
from converter.runtime.fast.heads import find_attention
from converter.runtime.fast.kernels import kernels
from converter.runtime.fast.layers import find_layers, find_silu, take_in_doubling, take_in_gate, take_in_residual
from converter.runtime.fast.lowering import Live, Lowering, Step, Store
from converter.runtime.fast.norms import (
    find_group_norms,
    find_layer_norms,
    take_in_affine,
    take_in_shift,
    take_in_silu,
)
from converter.runtime.fast.rounding import round_layers
from converter.runtime.fast.shapes import DataDependent, infer_shapes
from converter.runtime.feature import Network, check_inputs
from converter.runtime.mil import MILNetwork, OperationError, require_known
from converter.runtime.ops import FAULTS
from converter.runtime.program import Program, read_program

#: In this order; each sees what those before it have made. An affine part takes two, its product and its sum.
_REWRITES = (
    find_attention, find_group_norms, find_layer_norms, find_silu, take_in_affine, take_in_affine, take_in_silu,
    take_in_shift, find_layers, take_in_doubling, take_in_gate, pass_respaced, take_in_residual,
)  # fmt: skip


def _floats(program: Program) -> frozenset[str]:
    names = {
        n for op in program.operations for n, dtype in zip(op.outputs, op.dtypes, strict=True) if dtype.kind == "f"
    }
    return frozenset(names | {n for n, feature in program.inputs.items() if feature.dtype.kind == "f"})


def fused(program: Program, shapes: Mapping[str, Shape]) -> Graph:
    """Return the program's graph with one node for each fused operation, still in fp32."""
    graph = drop_casts(Graph.of(program, shapes).swept(), _floats(program))
    for rewrite in _REWRITES:
        graph = graph.rewritten(rewrite)
    return graph


def _shapes(program: Program, given: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """Return every value's shape for inputs of these; raises DataDependent."""
    shapes = dict(given)
    for op in program.operations:
        for name, shape in zip(op.outputs, op.shapes, strict=True):
            if shape is None:
                return infer_shapes(program, given)
            shapes[name] = shape
    return shapes


class FastNetwork:
    """A package run by fused kernels, or, on a machine without them, by fused PyTorch in fp32.

    Programs of flexible shapes are compiled anew for each shape they are given; the weights are shared.
    """

    def __init__(self, path: Path, function: str | None = None) -> None:
        """Raises DataDependent if a shape depends on values or states are kept, UnsupportedOperator, PackageError."""
        self._program = read_program(path, function)
        if self._program.states:
            raise DataDependent(f"{path.name} keeps {', '.join(self._program.states)}")
        require_known(path, self._program)
        self.inputs, self.outputs = self._program.inputs, self._program.outputs
        self._store = Store(kernels())
        self._compiled: dict[tuple[Shape, ...], list[Step]] = {}
        self._steps({name: feature.shape for name, feature in self.inputs.items()})

    def _steps(self, given: Mapping[str, Shape]) -> list[Step]:
        key = tuple(given[name] for name in self.inputs)
        if key not in self._compiled:
            graph = fused(self._program, _shapes(self._program, given))
            graph = round_layers(graph) if self._store.kernels is not None else graph
            self._compiled[key] = Lowering(graph, self._store).steps()
        return self._compiled[key]

    @torch.inference_mode()
    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network once.

        Raises InputError before anything runs and OperationError where an operation does not take what it is given.
        """
        live: Live = {}
        for name, array in check_inputs(inputs, self.inputs).items():
            wide = array.astype(np.float32) if array.dtype.kind == "f" else np.array(array)
            live[name] = torch.from_numpy(wide)
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
    """Compile a package; one that keeps states, or whose shapes depend on values, runs operation by operation."""
    try:
        return FastNetwork(path, function)
    except DataDependent:
        return MILNetwork(path, function)
