"""Run diffusers' and transformers' modules on a checkpoint's weights in fp32, with one layer in memory at a time.

The weights stay in the mapped file. Each layer's are converted to fp32 just before it runs and dropped right after, so
verification needs no more memory than conversion.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from converter.errors import CheckpointError
from converter.sources.tensors import Tensors, expect_shape


def _fetch(layer: torch.nn.Module, inputs: Any, *, stored: dict[str, tuple[str, torch.Size]], tensors: Tensors) -> None:
    for own, (name, shape) in stored.items():
        expect_shape(tensors, name, tuple(shape))
        value = torch.from_numpy(tensors.array(name).astype(np.float32)).reshape(shape)
        layer._parameters[own] = torch.nn.Parameter(value, requires_grad=False)


def _drop(layer: torch.nn.Module, inputs: Any, output: Any, *, empty: dict[str, torch.nn.Parameter | None]) -> None:
    layer._parameters.update(empty)


def _fill_positions(module: torch.nn.Module) -> None:
    """Fill CLIP's only buffer, the position ids."""
    for layer in module.modules():
        for name, buffer in layer._buffers.items():
            if buffer is not None and buffer.is_meta:
                if name != "position_ids":
                    raise CheckpointError(
                        f"{type(layer).__name__} has a buffer {name!r} with unknown values; only position_ids is supported"
                    )
                layer._buffers[name] = torch.arange(buffer.shape[-1]).expand(buffer.shape)


def streamed(
    make: Callable[[], torch.nn.Module], tensors: Tensors, stored_name: Callable[[str], str]
) -> torch.nn.Module:
    """Return the module that ``make`` makes, computing in fp32 with its weights read from ``tensors`` layer by layer.

    ``stored_name`` maps a parameter's name to its tensor's. A parameter is read when its own module runs; modules whose
    parameters are used by others are not supported (no network here has one). Raises CheckpointError if a tensor is
    missing.
    """
    with torch.device("meta"):
        module = make().eval()
    _fill_positions(module)
    for path, layer in module.named_modules():
        own: dict[str, torch.nn.Parameter | None] = dict(layer._parameters)
        stored = {
            name: (stored_name(f"{path}.{name}" if path else name), value.shape)
            for name, value in own.items()
            if value is not None
        }
        if stored and not path:
            _fetch(layer, (), stored=stored, tensors=tensors)  # parameters of the network itself: few and small
        elif stored:
            layer.register_forward_pre_hook(partial(_fetch, stored=stored, tensors=tensors))
            layer.register_forward_hook(partial(_drop, empty=own))
    return module
