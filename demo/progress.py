"""Shared by all training stages: averaged weights, the learning rate schedule, checkpoints and the log."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path

import torch


class Averaged:
    """An exponential moving average of a model's weights; the shipped weights are these."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Move the average towards the model's weights."""
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - self.decay)


def learning_rate(step: int, steps: int, *, peak: float, warmup: int) -> float:
    """Return the rate of a linear warm-up, then a cosine down to 2 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


def resume(state: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, averaged: Averaged) -> int:
    """Load the last checkpoint, if any, and return the number of finished steps."""
    if not state.exists():
        return 0
    saved = torch.load(state, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    averaged.weights = saved["averaged"]
    return int(saved["step"])


def save(state: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, averaged: Averaged) -> None:
    """Write a checkpoint; the previous one stays until the new one is complete."""
    partial = state.with_suffix(".partial")
    torch.save(
        {
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "averaged": averaged.weights,
        },
        partial,
    )
    partial.rename(state)


class Log:
    """A CSV file of losses; each new row is also printed."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path = path
        self.started = time.monotonic()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="") as file:
                csv.writer(file).writerow(columns)

    def row(self, step: int, *values: float) -> None:
        """Append the step's values and the seconds since this run began."""
        row = [step, *(f"{v:.5g}" for v in values), f"{time.monotonic() - self.started:.0f}"]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)
        print(self.path.stem, *row, flush=True)
