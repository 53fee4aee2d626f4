"""Measures this machine's matrix products in PyTorch, to compare a network's speed with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

_SIDES = (1024, 2048, 4096)
_RUNS = 6


def _rate(run: Callable[[], Any], operations: int) -> float:
    run()
    best = float("inf")
    for _ in range(_RUNS):
        begun = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begun)
    return operations / best


def measured() -> dict[str, float]:
    """Return operations a second by type: the best of square products of several sizes, each run several times."""
    rates: dict[str, float] = {}
    torch.manual_seed(0)
    for side in _SIDES:
        square, integers = torch.randn(side, side), torch.randint(-127, 128, (side, side), dtype=torch.int8)
        products: dict[str, Callable[[], Any]] = {"int8": partial(torch._int_mm, integers, integers)}
        for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
            products[name] = partial(torch.matmul, square.to(kind), square.to(kind))
        for name, run in products.items():
            rates[name] = max(rates.get(name, 0.0), _rate(run, 2 * side**3))
    return rates
