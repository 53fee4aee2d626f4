"""Constants of a program as PyTorch tensors, in the types operators work with."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch

from converter.runtime.compressed import Value, dense

Held: TypeAlias = torch.Tensor | str


def held(value: Value) -> Held:
    """A constant, decoded and copied out of its file: floats in fp32, integers narrow enough for PyTorch as they are."""
    if isinstance(value, str):
        return value
    array = dense(value)
    if array.dtype == np.float16:
        return torch.from_numpy(array.astype(np.float32))
    if array.dtype == np.uint16:
        return torch.from_numpy(array.astype(np.int32))
    return torch.from_numpy(np.array(array))
