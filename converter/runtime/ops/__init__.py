"""MIL's operators on PyTorch tensors: a table from operator to function.

Each function takes the operator's parameters by name, tensors as `torch.Tensor` and constants as the program has them,
and follows the semantics documented in coremltools' ``converters/mil/mil/ops/defs``. Floating tensors are fp32 whatever
the program says; integer and bool types are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from converter.runtime.ops import elementwise, gather, nn, reduce, shape

#: Operator -> function giving its one result, or a list of its results.
OPERATORS: dict[str, Callable[..., Any]] = {
    **elementwise.OPERATORS,
    **shape.OPERATORS,
    **reduce.OPERATORS,
    **gather.OPERATORS,
    **nn.OPERATORS,
}
