"""Find which operations can run on the Neural Engine, how much work each is, and where the program leaves the engine.

Core ML decides placement from measurements that a package does not have. A package shows which operations the engine
does not support, and whether these are at the program's ends (the CPU runs them before or after) or between the engine's
operations.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal

import numpy as np

from converter.lint.chips import Chip
from converter.lint.listing import Function, Operation
from converter.mil.graph import HEAVY

#: Operations that no generation of the engine supports, by two public lists that agree. One of them also names softplus,
#: which was measured on the engine of M3 Max and M5 (coremltools #2687, ANEForge #113).
UNSUPPORTED = frozenset(
    {
        "shape",
        "non_zero",
        "one_hot",
        "band_part",
        "scatter",
        "scatter_along_axis",
        "scatter_nd",
        "sliding_windows",
        "reverse_sequence",
        "gru",
        "lstm",
        "rnn",
        "random_bernoulli",
        "random_categorical",
        "random_normal",
        "random_uniform",
        "acos",
        "asin",
        "atan",
        "atanh",
        "cosh",
        "sinh",
        "tan",
        "mod",
        "reduce_prod",
        "logical_and",
        "logical_not",
        "logical_or",
        "logical_xor",
        "cumsum",
        "fill",
        "fill_like",
        "range_1d",
        "softplus_parametric",
        "softsign",
        "select",
        "cond",
        "while_loop",
        "make_list",
        "list_gather",
        "list_length",
        "list_read",
        "list_scatter",
        "list_write",
        "non_maximum_suppression",
        "classify",
    }
)
#: Types that the engine computes with. 16-bit integers are indices, 8-bit ones quantized activations.
_ENGINE_TYPES = frozenset({"fp16", "int8", "uint8", "int16", "uint16"})
#: An operation is between the engine's work if at least this part of the program's work is before it, and after it.
_LEAST_PART = 0.01

#: Why an operation is off the engine: the operation itself, its types, or this chip's generation.
Reason = Literal["operation", "type", "chip"]


def work_of(function: Function, op: Operation) -> int:
    """Return the number of multiplications of a heavy operation; 0 for the others, which are not worth the engine."""
    if op.kind not in HEAVY:
        return 0
    results = function.types[op.outputs[0]].count
    if op.kind == "einsum":
        equation = function.value(op, "equation")
        letters = str(equation).split("->")[0].split(",")
        sizes: dict[str, int] = {}
        for word, used in zip(letters, op.inputs["values"], strict=False):
            sizes |= dict(zip(word.strip(), function.types[used].sizes, strict=False))
        return math.prod(sizes.values())
    if op.kind == "matmul":
        name, transposed = function.first(op, "x"), function.value(op, "transpose_x")
        shape = function.types[name or ""].sizes
        return results * (shape[-2] if transposed is not None and bool(transposed) and len(shape) > 1 else shape[-1])
    if op.kind == "scaled_dot_product_attention":
        query, key = (function.types[function.first(op, p) or ""].sizes for p in ("query", "key"))
        return 2 * math.prod(query) * key[-2]
    weight = function.types[function.first(op, "weight") or ""].sizes
    if op.kind == "conv_transpose":
        return function.types[function.first(op) or ""].count * math.prod(weight[1:])
    return results * math.prod(weight[1:])


class Placement:
    """One function's operations on one chip."""

    def __init__(self, function: Function, chip: Chip) -> None:
        self._function = function
        self._chip = chip
        self.reasons = [self._reason(op) for op in function.operations]
        work = [
            0 if reason else work_of(function, op) for op, reason in zip(function.operations, self.reasons, strict=True)
        ]
        count = len(work)
        #: The engine's work on the heaviest chain that leads to, or from, each operation.
        self._before, self._after = np.zeros(count), np.zeros(count)
        for op in function.operations:
            for name in function.tensors(op):
                producer = function.producers.get(name)
                if producer is not None:
                    self._before[op.index] = max(
                        self._before[op.index], self._before[producer.index] + work[producer.index]
                    )
        for op in reversed(function.operations):
            for name in function.tensors(op):
                producer = function.producers.get(name)
                if producer is not None:
                    self._after[producer.index] = max(
                        self._after[producer.index], self._after[op.index] + work[op.index]
                    )
        self.total = float(max(self._before + np.asarray(work), default=0.0))

    def _reason(self, op: Operation) -> Reason | None:
        if op.kind in UNSUPPORTED or op.nested:
            return "operation"
        function = self._function
        if any(function.types[n].dtype not in _ENGINE_TYPES for n in (*function.tensors(op), *op.outputs)):
            return "type"
        return "chip" if op.kind in self._chip.lacks else None

    def on_engine(self, op: Operation) -> bool:
        """Return whether the engine can run the operation."""
        return self.reasons[op.index] is None

    def between(self, op: Operation) -> bool:
        """Return whether the operation is between two parts of the engine's work that matter."""
        least = _LEAST_PART * self.total
        return self.total > 0 and bool(min(self._before[op.index], self._after[op.index]) >= least)

    def is_heavy(self, op: Operation) -> bool:
        """Return whether the operation has a part of the program's multiplications that matters, wherever it runs."""
        return op.kind in HEAVY and work_of(self._function, op) >= _LEAST_PART * self.total

    def at_edge(self, op: Operation) -> bool:
        """Return whether the operation only casts or renames an input or an output."""
        function = self._function
        return op.kind in ("cast", "identity") and (
            all(n in function.inputs for n in function.tensors(op)) or any(n in function.outputs for n in op.outputs)
        )

    @cached_property
    def islands(self) -> list[list[Operation]]:
        """Groups of connected operations that are off the engine and between its work, in program order."""
        function = self._function
        off = {op.index: op for op in function.operations if not self.on_engine(op) and self.between(op)}
        roots = {index: index for index in off}

        def root(index: int) -> int:
            while roots[index] != index:
                roots[index] = roots[roots[index]]
                index = roots[index]
            return index

        for index, op in off.items():
            for name in function.tensors(op):
                producer = function.producers.get(name)
                if producer is not None and producer.index in off:
                    roots[root(index)] = root(producer.index)
        groups: dict[int, list[Operation]] = {}
        for index in sorted(off):
            groups.setdefault(root(index), []).append(off[index])
        return list(groups.values())
