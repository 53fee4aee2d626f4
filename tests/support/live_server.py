"""A real server on a real port, with a fake pipeline in a real worker process."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from server.api.app import create_app
from server.api.backend import Backend
from server.jobs.ledger import Limits
from server.jobs.queue import JobQueue
from server.jobs.readiness import Readiness
from server.jobs.store import JobStore
from server.models.conversions import Conversions
from server.models.first import FirstModel
from server.models.loras import Addons
from server.models.upscalers import InstalledUpscalers
from server.outage import Pauses
from server.security.gate import Access
from server.shutdown import Server
from server.supervisor import Launch, spawn
from tests.support import fake_converter, fake_pipeline
from tests.support.processes import copied

PATIENCE = 120.0  # on a busy machine a process takes a minute for its imports


def server(
    data_dir: Path,
    model: str = "fake",
    limits: Limits | None = None,
    access: Access | None = None,
    grace: float = 0.0,
    checkpoint: str | None = None,
    pauses: Pauses | None = None,
    launch: Launch | None = None,
    start: Callable[..., Launch] = spawn,
) -> uvicorn.Server:
    """Return a server whose first model is installed, or is converted from ``checkpoint`` by the fake converter.

    ``launch`` starts a worker for the model that is there already; None: the fake pipeline's, for a model of its own, by
    ``start``.
    """
    source = data_dir / "models" / model if checkpoint is None else data_dir / checkpoint
    if checkpoint is None and launch is None:
        fake_pipeline.write_model(source)

    def on_readiness(readiness: Readiness) -> None:
        pass

    def open_backend() -> Backend:
        first, store = FirstModel(source, data_dir), JobStore(data_dir)
        worker = launch or start(fake_pipeline.start, data_dir, name="fake-worker")
        queue = JobQueue(store, [worker], first.models, on_readiness, limits, pauses=pauses)
        conversions = Conversions(data_dir, first.models, queue.events, fake_converter.launcher(data_dir))
        return Backend(
            store,
            queue,
            first.models,
            conversions,
            InstalledUpscalers(data_dir),
            first,
            Addons(data_dir, bundled=data_dir),
        )

    return Server(create_app(open_backend, access, grace), grace)


def bound() -> socket.socket:
    listening = socket.socket(proto=socket.IPPROTO_TCP)  # like server.cli.serving, for the same reason
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 0))
    return listening


@contextmanager
def live(
    data_dir: Path,
    model: str = "fake",
    ready: bool = True,
    limits: Limits | None = None,
    access: Access | None = None,
    grace: float = 0.0,
    checkpoint: str | None = None,
    pauses: Pauses | None = None,
    launch: Launch | None = None,
) -> Iterator[httpx.Client]:
    """Run a server and yield a client of it; with ``ready``, wait until the server is ready."""
    data_dir.mkdir(parents=True, exist_ok=True)
    running = server(data_dir, model, limits, access, grace, checkpoint, pauses, launch, copied)
    with bound() as listening:
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with httpx.Client(base_url=base, timeout=PATIENCE, trust_env=False) as client:
                until(lambda: answers(client))
                if ready:
                    until(lambda: client.get("/readyz").status_code == 200)
                yield client
        finally:
            running.should_exit = True
            thread.join()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Any, patience: float = PATIENCE) -> Any:
    """Wait until ``condition`` returns something true, and return that."""
    deadline = time.monotonic() + patience
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return result


def enqueue(client: httpx.Client, prompt: str, **fields: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/txt2img", json={"prompt": prompt, **fields}, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def job(client: httpx.Client, job_id: str) -> dict[str, Any]:
    return dict(client.get(f"/api/v1/jobs/{job_id}").json())


def over(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """Wait until the job has ended, and return it."""
    return dict(until(lambda: (j := job(client, job_id))["status"] not in ("queued", "running") and j))


def running(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """Wait until the job has finished a step, and return it."""
    return dict(until(lambda: (j := job(client, job_id))["progress"] and j))


@dataclass(frozen=True)
class Told:
    """A server-sent event."""

    id: int
    kind: str
    data: dict[str, Any]


def watch(client: httpx.Client, job_id: str, after: int | None = None) -> Iterator[Told]:
    """Yield a job's events until the stream ends."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with client.stream("GET", f"/api/v1/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "data" in fields:
                yield Told(int(fields["id"]), fields["event"], json.loads(fields["data"]))
                fields = {}


if __name__ == "__main__":
    with bound() as listening:
        print(listening.getsockname()[1], flush=True)
        server(Path(sys.argv[1])).run(sockets=[listening])
