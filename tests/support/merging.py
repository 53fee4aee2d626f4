"""LoRA files of random numbers for merges, and diffusers' own merge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from converter.loras import LoraFile
from tests.support.lora_files import write

_LAYERS = (torch.nn.Linear, torch.nn.Conv2d)


def lora_of(parts: Mapping[str, Any], path: Path, seed: int = 0) -> LoraFile:
    """Write a LoRA of rank 2 on every linear and convolutional layer of some modules (component -> module), and open it."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for component, module in parts.items():
        for name, each in module.named_modules():
            if isinstance(each, _LAYERS):
                # transformers 5's CLIPTextModel is bare; files say text_model.
                layer = f"{component}.{'text_model.' * name.startswith('encoder.layers')}{name}"
                out, *rest = each.weight.shape
                up = torch.randn(out, 2, *[1] * (len(rest) - 1), generator=generator)
                state[f"{layer}.lora_A.weight"] = torch.randn(2, *rest, generator=generator)
                state[f"{layer}.lora_B.weight"] = each.weight.detach().std() / 2**0.5 * up
    return LoraFile.open(write(path, state))


def fuse(pipeline: Any, lora: LoraFile, weight: float) -> Any:
    """Return diffusers' pipeline with the LoRA in its weights."""
    pipeline.load_lora_weights(load_file(lora.path))
    pipeline.fuse_lora(lora_scale=weight)
    pipeline.unload_lora_weights()
    return pipeline
