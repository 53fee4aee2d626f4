"""The objects behind the routes: jobs, their queue, models and conversions."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from server.jobs.queue import JobQueue
from server.jobs.store import JobStore
from server.models.conversions import Conversions
from server.models.first import FirstModel
from server.models.installed import InstalledModels
from server.models.loras import Addons
from server.models.memory import memory_budget
from server.models.repairs import Repairs
from server.models.upscalers import InstalledUpscalers


@dataclass(frozen=True)
class Backend:
    """The objects of a running server: they start and stop with it; the database closes after the last answer.

    first: the model that the server starts with.
    memory_budget: bytes that the loaded model's weights may take.
    any_model: whether a name of no installed model means the default one in OpenAI's API.
    """

    store: JobStore
    queue: JobQueue
    models: InstalledModels
    conversions: Conversions
    upscalers: InstalledUpscalers
    first: FirstModel
    addons: Addons
    memory_budget: int = field(default_factory=memory_budget)
    any_model: bool = False

    def start(self) -> None:
        """Start the work, first the jobs and conversions of an earlier run."""
        self.queue.start(self.models.default, Repairs(self.first, self.conversions).find)
        self.first.start(self.conversions, self.queue)
        self.conversions.start()
        self.addons.loras.sweep()
        self.addons.embeddings.sweep()
        threading.Thread(target=self.addons.read_all, name="addons", daemon=True).start()

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Stop: the running job may finish within the grace period; otherwise it returns to the queue."""
        self.conversions.stop()
        self.queue.stop(grace_seconds)

    def close(self) -> None:
        """Close the database."""
        self.store.close()
