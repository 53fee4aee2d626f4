"""How the worker begins. The HTTP process imports this; the models behind it only the worker does."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from converter.runtime import ComputeUnit


@dataclass(frozen=True)
class ModelChoice:
    """Which model to begin with, where others are, and how to run them.

    source: a converted model or a checkpoint to make ready first; None begins with none.
    data_dir: where installed models are.
    compute_units: network -> Core ML compute unit; those that are not named follow the model (see `converter.devices.units`).
    extra: model folders that are not in ``data_dir``.
    memory_budget_gb: what the loaded networks' weights may take; None for what the machine has free.
    previews: whether steps come with previews.
    precision: how the networks compute (see `converter.runtime.load`).
    """

    source: Path | None
    data_dir: Path
    compute_units: dict[str, ComputeUnit]
    extra: tuple[Path, ...] = ()
    memory_budget_gb: float | None = None
    previews: bool = True
    precision: str = "fast"


def start_worker(pipe: Connection, choice: ModelChoice) -> None:
    """The worker process's entry point."""
    from server.jobs.worker import open_model, prepare_model, work

    work(pipe, choice, prepare_model, open_model)
