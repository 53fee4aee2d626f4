"""``anemone serve``: the app on a port, with its worker."""

from __future__ import annotations

import fcntl
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from converter.errors import AnemoneError
from server.app import create_app
from server.jobs.queue import JobQueue, Launch, Readiness, launch_worker
from server.jobs.start import ModelChoice, start_worker
from server.jobs.store import JobStore
from server.settings import Settings
from server.terminal import Bar


@contextmanager
def _sole_user(data_dir: Path) -> Iterator[None]:
    """Hold the data folder; two servers on one would run each other's jobs."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = (data_dir / "lock").open("w")
    except OSError as error:
        raise AnemoneError(f"the data folder {data_dir} cannot be written: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AnemoneError(
                f"another server uses {data_dir}; stop it, or give this one its own --data-dir"
            ) from error
        yield


class _Console:
    """Says in the terminal how the model is coming along."""

    def __init__(self, url: str) -> None:
        self._bar, self._url = Bar(), url

    def __call__(self, now: Readiness) -> None:
        if now.state in ("converting", "verifying", "loading"):
            self._bar.show(f"{now.state} {now.network}", now.done, now.total)
            return
        self._bar.close()
        if now.state == "ready" and now.manifest is not None:
            print(f"ready: {now.manifest.name} at {self._url}", file=sys.stderr, flush=True)
        elif now.state == "failed":
            print(f"anemone: the model cannot be loaded: {now.message}", file=sys.stderr, flush=True)


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        raise AnemoneError(
            f"port {settings.port} on {settings.host} cannot be used: {error.strerror}; give another --port"
        ) from error
    return bound


def worker_launcher(settings: Settings) -> Launch:
    """Starts workers holding the settings' model. Nothing of the worker's is imported in this process."""
    choice = ModelChoice(settings.model.absolute(), settings.data_dir.absolute(), dict(settings.compute_units))
    return launch_worker(start_worker, choice)


def serve(settings: Settings) -> int:
    """Serve until interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with _sole_user(settings.data_dir), _bound(settings) as bound:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{bound.getsockname()[1]}"
        print(f"Anemone at {url}, data in {settings.data_dir}", file=sys.stderr, flush=True)
        console = _Console(url)

        def open_queue() -> tuple[JobStore, JobQueue]:
            store = JobStore(settings.data_dir)
            return store, JobQueue(store, worker_launcher(settings), console)

        config = uvicorn.Config(
            create_app(open_queue),
            http="h11",
            ws="none",
            log_level="warning",
            timeout_graceful_shutdown=3,
            server_header=False,
        )
        uvicorn.Server(config).run(sockets=[bound])
    return 0
