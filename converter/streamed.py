"""diffusers' and transformers' own networks on a checkpoint's weights, in fp32, a layer in memory at a time.

The weights stay in the mapped file. Each layer's are widened just before it runs and dropped right after, so the
reference of a network of any size fits where the network's converter does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from converter.errors import CheckpointError
from converter.tensors import Tensors

#: The spelling of autoencoders' attention in checkpoints saved before diffusers 0.15.
_OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def _stored(tensors: Tensors, name: str) -> torch.Tensor:
    if name not in tensors:
        for new, old in _OLD_NAMES.items():
            if (older := name.replace(f".{new}.", f".{old}.")) in tensors:
                name = older
                break
    return torch.from_numpy(tensors.array(name).astype(np.float32))


def _fetch(layer: torch.nn.Module, inputs: Any, *, path: str, tensors: Tensors, shapes: dict[str, torch.Size]) -> None:
    for name, shape in shapes.items():
        value = _stored(tensors, f"{path}.{name}" if path else name).reshape(shape)
        layer._parameters[name] = torch.nn.Parameter(value, requires_grad=False)


def _drop(layer: torch.nn.Module, inputs: Any, output: Any, *, empty: dict[str, torch.nn.Parameter | None]) -> None:
    layer._parameters.update(empty)


def _number_places(module: torch.nn.Module) -> None:
    """Fill the one buffer CLIP has: the numbers of its positions."""
    for layer in module.modules():
        for name, buffer in layer._buffers.items():
            if buffer is not None and buffer.is_meta:
                if name != "position_ids":
                    raise CheckpointError(f"{type(layer).__name__} has a buffer {name!r} whose values are not known")
                layer._buffers[name] = torch.arange(buffer.shape[-1]).expand(buffer.shape)


def streamed(make: Callable[[], torch.nn.Module], tensors: Tensors) -> torch.nn.Module:
    """The module that ``make`` gives, computing in fp32 with ``tensors`` as its weights, fetched layer by layer.

    A parameter is fetched when its own module runs; modules whose parameters others use are not supported (none of the
    networks converted here has one). Raises CheckpointError where a tensor is missing.
    """
    with torch.device("meta"):
        module = make().eval()
    _number_places(module)
    prefix = "" if any(name in tensors for name, _ in module.named_parameters()) else "text_model."
    for path, layer in module.named_modules():
        own: dict[str, torch.nn.Parameter | None] = dict(layer._parameters)
        shapes = {name: value.shape for name, value in own.items() if value is not None}
        if shapes and not path:
            _fetch(layer, (), path=path, tensors=tensors, shapes=shapes)  # the whole network's own: few and small
        elif shapes:
            stored = path if f"{path}.{next(iter(shapes))}" in tensors or not prefix else path.removeprefix(prefix)
            layer.register_forward_pre_hook(partial(_fetch, path=stored, tensors=tensors, shapes=shapes))
            layer.register_forward_hook(partial(_drop, empty=own))
    return module
