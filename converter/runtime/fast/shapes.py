"""Infer the shape of every value of a program from its inputs' shapes, without computing values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from converter.runtime.compressed import Value
from converter.runtime.ops import FAULTS, OPERATORS, TUPLES
from converter.runtime.ops.parameter import to_tensor
from converter.runtime.program import Program


class DataDependent(Exception):
    """A program's shapes depend on values, or its results on states."""


def _stand_in(value: Value) -> Any:
    """Return a constant for inference: integers and single values as they are, weights as shapes only."""
    if not isinstance(value, str) and value.size > 64 and np.issubdtype(value.dtype, np.floating):
        return torch.empty(value.shape, device="meta")
    tensor = to_tensor(value)
    return (
        tensor if isinstance(tensor, str) or not tensor.is_floating_point() or tensor.ndim == 0 else tensor.to("meta")
    )


def infer_shapes(program: Program, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs and all results by name, by running the operators on PyTorch's meta device.

    Raises DataDependent if an operator needs data to know its result's shape.
    """
    kinds = {"f": torch.float32, "i": torch.int32, "b": torch.bool, "u": torch.int32}
    live: dict[str, Any] = {
        name: torch.empty(shape, dtype=kinds[program.inputs[name].dtype.kind], device="meta")
        for name, shape in inputs.items()
    }
    stand_ins: dict[int, Any] = {}

    def constant(value: Value) -> Any:
        if id(value) not in stand_ins:
            stand_ins[id(value)] = _stand_in(value)
        return stand_ins[id(value)]

    for op in program.operations:
        if op.kind not in OPERATORS:
            raise DataDependent(op.kind)
        tensors = {n: [live[s] for s in names] if n in TUPLES else live[names[0]] for n, names in op.inputs.items()}
        constants = {n: [constant(v) for v in vs] if n in TUPLES else constant(vs[0]) for n, vs in op.constants.items()}
        try:
            results = OPERATORS[op.kind](**constants, **tensors)
        except FAULTS as error:
            raise DataDependent(f"{op.kind} {op.outputs[0]}: {error}") from error
        live |= zip(op.outputs, results if isinstance(results, list) else [results], strict=True)
    return {name: tuple(tensor.shape) for name, tensor in live.items() if isinstance(tensor, torch.Tensor)}
