"""What is merged, as the files' readers give it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class FewStep(Protocol):
    """How a few-step LoRA is sampled."""

    @property
    def steps(self) -> int: ...
    @property
    def guidance_scale(self) -> float: ...
    @property
    def scheduler(self) -> str: ...


class LoraLayer(Protocol):
    """What a LoRA does to one layer."""

    def merged(self, weight: NDArray[np.float32], multiplier: float) -> NDArray[np.float32]: ...


class Lora(Protocol):
    """A LoRA file."""

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def families(self) -> tuple[str, ...]: ...
    @property
    def few_step(self) -> FewStep | None: ...
    @property
    def layers(self) -> Mapping[str, Mapping[str, LoraLayer]]: ...
    @property
    def biases(self) -> Mapping[str, Mapping[str, LoraLayer]]: ...


class Embedding(Protocol):
    """A file of a textual inversion; vectors [n, width] by text encoder."""

    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def families(self) -> tuple[str, ...]: ...
    @property
    def vectors(self) -> Mapping[str, NDArray[Any]]: ...
