"""Which operations can run on the Neural Engine, how much work each is, and where the program must leave the engine.

Core ML decides placement from measurements that no package has; a package shows which operations the
engine has no path for, and whether these stand at the program's ends (the CPU does them before or after) or between
work that would be the engine's.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal

import numpy as np

from converter.lint.chips import Chip
from converter.lint.listing import Function, Operation
from converter.mil.graph import HEAVY

#: Operations no generation of the engine has a path for, in two public lists that agree. Not softplus, which one of
#: them names too: it was measured on the engine of M3 Max and M5 (coremltools #2687, ANEForge #113).
NO_PATH = frozenset(
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
#: What the engine computes with. 16-bit integers are indices, 8-bit ones quantized activations.
_ENGINE_TYPES = frozenset({"fp16", "int8", "uint8", "int16", "uint16"})
#: Less than this part of the program's work beside an operation does not make it stand between the engine's work.
_MATTERS = 0.01

#: Why an operation is off the engine: no path for it, its types, or this chip's generation.
Reason = Literal["operation", "type", "chip"]


def work_of(function: Function, op: Operation) -> int:
    """Return the multiplications of a heavy operation; 0 for the others, which are not worth the engine."""
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
        name, turned = function.first(op, "x"), function.value(op, "transpose_x")
        shape = function.types[name or ""].sizes
        return results * (shape[-2] if turned is not None and bool(turned) and len(shape) > 1 else shape[-1])
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
                maker = function.producers.get(name)
                if maker is not None:
                    self._before[op.index] = max(self._before[op.index], self._before[maker.index] + work[maker.index])
        for op in reversed(function.operations):
            for name in function.tensors(op):
                maker = function.producers.get(name)
                if maker is not None:
                    self._after[maker.index] = max(self._after[maker.index], self._after[op.index] + work[op.index])
        self.total = float(max(self._before + np.asarray(work), default=0.0))

    def _reason(self, op: Operation) -> Reason | None:
        if op.kind in NO_PATH or op.nested:
            return "operation"
        function = self._function
        if any(function.types[n].dtype not in _ENGINE_TYPES for n in (*function.tensors(op), *op.outputs)):
            return "type"
        return "chip" if op.kind in self._chip.lacks else None

    def on_engine(self, op: Operation) -> bool:
        """Whether the engine could run it."""
        return self.reasons[op.index] is None

    def between(self, op: Operation) -> bool:
        """Whether it stands between two stretches of the engine's work that matter."""
        least = _MATTERS * self.total
        return self.total > 0 and bool(min(self._before[op.index], self._after[op.index]) >= least)

    def weighs(self, op: Operation) -> bool:
        """Whether it does a part of the program's multiplications that matters, wherever it runs."""
        return op.kind in HEAVY and work_of(self._function, op) >= _MATTERS * self.total

    def at_edge(self, op: Operation) -> bool:
        """Whether it only turns an input's or an output's type, or names it."""
        function = self._function
        return op.kind in ("cast", "identity") and (
            all(n in function.inputs for n in function.tensors(op)) or any(n in function.outputs for n in op.outputs)
        )

    @cached_property
    def islands(self) -> list[list[Operation]]:
        """Return operations off the engine between its work, each with those of them it touches, in program order."""
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
                maker = function.producers.get(name)
                if maker is not None and maker.index in off:
                    roots[root(index)] = root(maker.index)
        groups: dict[int, list[Operation]] = {}
        for index in sorted(off):
            groups.setdefault(root(index), []).append(off[index])
        return list(groups.values())
