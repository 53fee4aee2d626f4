"""MIL's operators on PyTorch tensors: a table from operator to function.

Each function takes the operator's parameters by name, as `torch.Tensor` or text, and follows the semantics documented in
coremltools' ``converters/mil/mil/ops/defs``. Floating tensors are fp32 whatever the program says. Integers and bools
keep their types, except 16-bit unsigned integers, which become int32.
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

#: Operator -> function that returns its only result, or a list of its results.
OPERATORS: dict[str, Callable[..., Any]] = {
    kind: function for module in _MODULES for kind, function in import_module(f"{__name__}.{module}").OPERATORS.items()
}
#: Exceptions of an operator that does not accept its arguments.
FAULTS = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)
#: Parameters that are always lists, even of one tensor.
TUPLES = frozenset({"values", "ref_tensors", "begins", "ends", "end_masks"})
