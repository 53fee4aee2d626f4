"""LoRA files of random numbers, and what other libraries make of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return a tensor of normal numbers, a tenth of the usual size."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))) / 10


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    """Write a safetensors file."""
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    return path


def low_rank(module: str, shape: Iterable[int], rank: int = 4, alpha: float | None = 2.0) -> Tensors:
    """Return a LoRA of a weight of this shape under kohya's names."""
    out, into, *kernel = shape
    tensors = {
        f"{module}.lora_up.weight": random(out, rank, *[1] * len(kernel), seed=len(module)),
        f"{module}.lora_down.weight": random(rank, into, *kernel, seed=len(module) + 1),
    }
    return tensors if alpha is None else tensors | {f"{module}.alpha": torch.tensor(alpha)}


def weights_of(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return a network's weights and biases in fp32 by names with _ for dots, as packages have them."""
    return {
        name.replace(".base_layer", "").replace(".", "_"): parameter.detach().float().numpy().copy()
        for name, parameter in module.named_parameters()
        if ".lora_" not in name
    }
