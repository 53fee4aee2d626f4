"""What stands behind the routes: the jobs, their queue, and the models they are made with."""

from __future__ import annotations

from dataclasses import dataclass, field

from server.jobs.queue import JobQueue
from server.jobs.store import JobStore
from server.models.conversions import Conversions
from server.models.first import FirstModel
from server.models.installed import InstalledModels
from server.models.memory import memory_budget


@dataclass(frozen=True)
class Backend:
    """Started with the server, stopped when it is told to leave, closed once the last answer is sent.

    first: makes the model to begin with ready; None where the worker does.
    memory_budget: bytes that the loaded model's weights may take.
    """

    store: JobStore
    queue: JobQueue
    models: InstalledModels
    conversions: Conversions
    first: FirstModel | None = None
    memory_budget: int = field(default_factory=memory_budget)

    def start(self) -> None:
        """Take up what an earlier server left, and begin."""
        self.queue.start(self.models.default, begin=self.first is None)
        self.conversions.start()
        if self.first is not None:
            self.first.start(self.conversions, self.queue)

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Let the running job end within the grace, or put it back."""
        self.conversions.stop()
        self.queue.stop(grace_seconds)

    def close(self) -> None:
        """Close the database."""
        self.store.close()
