"""A real server on a real port, with a fake painter in a real worker process."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from server.app import create_app
from server.jobs.queue import JobQueue, Readiness, launch_worker
from server.jobs.start import ModelChoice
from server.jobs.store import JobStore
from tests.server import fake_painter

PATIENCE = 60.0


def server(data_dir: Path, model: str = "fake") -> uvicorn.Server:
    choice = ModelChoice(Path(model), data_dir, {})

    def announce(readiness: Readiness) -> None:
        pass

    def open_queue() -> tuple[JobStore, JobQueue]:
        store = JobStore(data_dir)
        return store, JobQueue(store, launch_worker(fake_painter.start, choice), announce)

    config = uvicorn.Config(
        create_app(open_queue), http="h11", ws="none", log_level="warning", timeout_graceful_shutdown=3
    )
    return uvicorn.Server(config)


def bound() -> socket.socket:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("127.0.0.1", 0))
    return found


@contextmanager
def live(data_dir: Path, model: str = "fake", ready: bool = True) -> Iterator[httpx.Client]:
    """A client of a running server; waits until it is ready, unless told not to."""
    data_dir.mkdir(parents=True, exist_ok=True)
    running = server(data_dir, model)
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
    """What ``condition`` returns, once that is true of it."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def enqueue(client: httpx.Client, prompt: str, **fields: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/txt2img", json={"prompt": prompt, **fields}, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def job(client: httpx.Client, job_id: str) -> dict[str, Any]:
    return dict(client.get(f"/api/v1/jobs/{job_id}").json())


def over(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job, once it is over."""
    return dict(until(lambda: (j := job(client, job_id))["status"] not in ("queued", "running") and j))


def running(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job, once it has made a step."""
    return dict(until(lambda: (j := job(client, job_id))["progress"] and j))


if __name__ == "__main__":
    with bound() as listening:
        print(listening.getsockname()[1], flush=True)
        server(Path(sys.argv[1])).run(sockets=[listening])
