"""The shape of every value of a program for inputs of given shapes, without computing any."""

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
    """A program depends on more than its inputs' shapes: a shape of it on values, or a result on states."""


def _stand_in(value: Value) -> Any:
    """Return a constant as operators look at it: whole numbers and single values as they are, weights as shapes alone."""
    if not isinstance(value, str) and value.size > 64 and np.issubdtype(value.dtype, np.floating):
        return torch.empty(value.shape, device="meta")
    whole = to_tensor(value)
    return whole if isinstance(whole, str) or not whole.is_floating_point() or whole.ndim == 0 else whole.to("meta")


def infer_shapes(program: Program, given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the inputs and every result. Runs the operators on PyTorch's meta device, which has no data.

    Raises DataDependent if an operator has to look at data to know its result's shape.
    """
    kinds = {"f": torch.float32, "i": torch.int32, "b": torch.bool, "u": torch.int32}
    live: dict[str, Any] = {
        name: torch.empty(shape, dtype=kinds[program.inputs[name].dtype.kind], device="meta")
        for name, shape in given.items()
    }
    seen: dict[int, Any] = {}

    def constant(value: Value) -> Any:
        if id(value) not in seen:
            seen[id(value)] = _stand_in(value)
        return seen[id(value)]

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
