"""Random numbers: the same for the same seed, but not those of a Mac; a seed of -1 means no seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from converter.runtime.ops.parameter import number, numbers, real


def _generator(seed: Tensor | None) -> torch.Generator:
    generator = torch.Generator()
    value = number(seed, -1)
    if value == -1:
        generator.seed()
    else:
        generator.manual_seed(value)
    return generator


def _bernoulli(shape: Tensor, prob: Tensor | None = None, seed: Tensor | None = None) -> Tensor:
    return (torch.rand(numbers(shape), generator=_generator(seed)) < real(prob, 0.5)).float()


def _categorical(x: Tensor, mode: str = "logits", size: Tensor | None = None, seed: Tensor | None = None) -> Tensor:
    probs = torch.softmax(x, -1) if mode == "logits" else x
    rows, count = probs.reshape(math.prod(x.shape[:-1]), x.shape[-1]), number(size, 1)
    samples = torch.multinomial(rows, count, replacement=True, generator=_generator(seed))
    return samples.reshape(*x.shape[:-1], count).to(x.dtype)


def _normal(
    shape: Tensor, mean: Tensor | None = None, stddev: Tensor | None = None, seed: Tensor | None = None
) -> Tensor:
    return torch.randn(numbers(shape), generator=_generator(seed)) * real(stddev, 1.0) + real(mean, 0.0)


def _uniform(
    shape: Tensor, low: Tensor | None = None, high: Tensor | None = None, seed: Tensor | None = None
) -> Tensor:
    first, last = real(low, 0.0), real(high, 1.0)
    return torch.rand(numbers(shape), generator=_generator(seed)) * (last - first) + first


OPERATORS: dict[str, Callable[..., Any]] = {
    "random_bernoulli": _bernoulli,
    "random_categorical": _categorical,
    "random_normal": _normal,
    "random_uniform": _uniform,
}
