"""Files of upscaling networks, small ones with random weights, under the names of published files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from converter.networks.upscaler_modules import upscaler_module

#: The sizes of an RRDB network that a test converts in a moment.
SMALL_RRDB = {"architecture": "rrdb", "width": 8, "growth": 4, "blocks": 2, "unshuffle": 1, "doublings": 2, "scale": 4}
SMALL_COMPACT = {"architecture": "compact", "width": 8, "convolutions": 3, "scale": 2}


def network(config: dict[str, Any], seed: int = 0) -> torch.nn.Module:
    """Return a network whose weights are whole in fp16 and whose results are of an image's magnitude."""
    torch.manual_seed(seed)
    module = upscaler_module(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.half().float())
    return module


def save(module: torch.nn.Module, path: Path, rename: Any = str) -> Path:
    """Write the network's weights as fp16 under the names that ``rename`` gives them."""
    save_file({rename(name): value.half().contiguous() for name, value in module.state_dict().items()}, path)
    return path
