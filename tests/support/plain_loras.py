"""LoRAs and embeddings of random numbers, as objects that can be merged and as what diffusers loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_LAYERS = (torch.nn.Linear, torch.nn.Conv2d)


@dataclass(frozen=True)
class Layer:
    """A LoRA's two matrices for one layer."""

    down: NDArray[np.float32]
    up: NDArray[np.float32]

    def merged(self, weight: NDArray[np.float32], multiplier: float) -> NDArray[np.float32]:
        """Return the weight with the product of the matrices added."""
        product = self.up.reshape(len(self.up), -1) @ self.down.reshape(len(self.down), -1)
        return weight + np.float32(multiplier) * product.reshape(weight.shape)


@dataclass(frozen=True)
class PlainLora:
    """A LoRA; ``state`` is the same in diffusers' naming."""

    name: str
    layers: Mapping[str, Mapping[str, Layer]]
    state: dict[str, torch.Tensor]
    families: tuple[str, ...] = ("sd1",)
    sha256: str = "0" * 64
    few_step: Any = None
    biases: Mapping[str, Mapping[str, Layer]] = field(default_factory=dict)


@dataclass(frozen=True)
class PlainEmbedding:
    """A textual inversion."""

    name: str
    vectors: Mapping[str, NDArray[np.float32]]
    families: tuple[str, ...] = ("sd1",)
    sha256: str = "1" * 64


def lora_of(parts: Mapping[str, Any], seed: int = 0, **more: Any) -> PlainLora:
    """Return a LoRA of rank 2 on every linear and convolutional layer of some modules (component -> module)."""
    rng = np.random.default_rng(seed)
    layers: dict[str, dict[str, Layer]] = {}
    state = {}
    for component, module in parts.items():
        layers[component] = {}
        for path, each in module.named_modules():
            if not isinstance(each, _LAYERS):
                continue
            # transformers 5's CLIPTextModel is bare; files say text_model.
            published = f"text_model.{path}" if path.startswith("encoder.layers") else path
            out, *rest = each.weight.shape
            size = float(each.weight.detach().std()) / np.sqrt(2)
            down = rng.standard_normal((2, *rest)).astype(np.float32)
            up = (size * rng.standard_normal((out, 2))).astype(np.float32)
            layers[component][published.replace(".", "_")] = Layer(down, up)
            state[f"{component}.{published}.lora_A.weight"] = torch.from_numpy(down)
            state[f"{component}.{published}.lora_B.weight"] = torch.from_numpy(up).reshape(
                out, 2, *[1] * (len(rest) - 1)
            )
    return PlainLora(**{"name": "style", "layers": layers, "state": state} | more)
