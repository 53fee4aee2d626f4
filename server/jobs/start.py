"""How the worker begins. The HTTP process imports this; the models behind it only the worker does."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path


@dataclass(frozen=True)
class ModelChoice:
    """Which model to hold, where, and on which compute units."""

    source: Path
    data_dir: Path
    compute_units: dict[str, str]


def start_worker(orders: Connection, choice: ModelChoice) -> None:
    """The worker process's entry point."""
    from server.jobs.worker import prepare_model, work

    work(orders, choice, prepare_model)
