"""MIL's operators on PyTorch tensors: a table from operator to function.

Each function takes the operator's parameters by name, tensors as `torch.Tensor` and constants as the program has them,
and follows the semantics documented in coremltools' ``converters/mil/mil/ops/defs``. Floating tensors are fp32 whatever
the program says; integer and bool types are kept, but for 16-bit unsigned integers, which are held as int32.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

_MODULES = [
    "activation",
    "block",
    "boxes",
    "conv",
    "create",
    "elementwise",
    "gather",
    "noise",
    "norm",
    "order",
    "pool",
    "product",
    "quantize",
    "reduce",
    "resample",
    "resize",
    "scatter",
    "shape",
    "slice",
]

#: Operator -> function giving its one result, or a list of its results.
OPERATORS: dict[str, Callable[..., Any]] = {
    kind: function for module in _MODULES for kind, function in import_module(f"{__name__}.{module}").OPERATORS.items()
}
#: What an operator raises where it does not take what it is given.
FAULTS = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)
#: Parameters that are lists even when they hold one tensor.
TUPLES = frozenset({"values", "ref_tensors", "begins", "ends", "end_masks"})
