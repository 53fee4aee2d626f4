"""Constant parameters of operators, as tensors and as plain numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from converter.runtime.compressed import Compressed, Value


def to_tensor(value: Value) -> Tensor | str:
    """Return a constant, decoded and copied from its file: floats in fp32, 16-bit unsigned integers in int32."""
    if isinstance(value, str):
        return value
    wider = {np.dtype(np.float16): np.dtype(np.float32), np.dtype(np.uint16): np.dtype(np.int32)}
    dtype = wider.get(value.dtype, value.dtype)
    return torch.from_numpy(value.dense(dtype) if isinstance(value, Compressed) else value.astype(dtype))


def numbers(x: Tensor | None, default: list[int] | None = None) -> list[int]:
    """Return the integers of a vector, or ``default`` if the program does not have the parameter."""
    if x is None:
        return [] if default is None else default
    return [int(n) for n in x.reshape(-1).tolist()]


def number(x: Tensor | None, default: int) -> int:
    """Return an integer parameter, or ``default``."""
    return default if x is None else int(x)


def real(x: Tensor | None, default: float) -> float:
    """Return a floating-point parameter, or ``default``."""
    return default if x is None else float(x)


def flag(x: Tensor | None, default: bool = False) -> bool:
    """Return a bool parameter, or ``default``."""
    return default if x is None else bool(x)


def flags(x: Tensor | None, length: int) -> list[bool]:
    """Return the truth values of a vector, all False if the program does not have the parameter."""
    return [False] * length if x is None else [bool(b) for b in x.reshape(-1).tolist()]
