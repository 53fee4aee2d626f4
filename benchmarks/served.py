"""A real server with the tests' fake pipeline in a process of its own, for the benchmarks that measure serving."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 300.0
#: Jobs that may wait in the measured server, for figures of a long queue.
MAX_QUEUE = 20_000


def report(what: str, result: str, goal: str = "") -> None:
    """Print a figure beside its goal."""
    print(f"{what:56} {result:>26}   {goal}", flush=True)


@contextmanager
def serving(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """Start a server; yield its process and a client when it answers."""
    command = [sys.executable, "-m", "benchmarks.served", str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            base = f"http://127.0.0.1:{int(process.stdout.readline())}"
            with httpx.Client(base_url=base, timeout=PATIENCE_S, trust_env=False) as client:
                until(lambda: answers(client))
                yield process, client
        finally:
            process.kill()


def answers(client: httpx.Client) -> bool:
    """Return whether the server answers."""
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Callable[[], Any]) -> Any:
    """Wait until ``condition`` returns something true, and return that."""
    deadline = time.monotonic() + PATIENCE_S
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen in time")
        time.sleep(0.02)
    return result


def ready(client: httpx.Client) -> None:
    """Wait until the server can make an image."""
    until(lambda: client.get("/readyz").status_code == 200)


def _serve(data_dir: Path) -> None:
    from server.jobs.ledger import Limits
    from tests.support.live_server import bound, server

    with bound() as listening:
        print(listening.getsockname()[1], flush=True)
        server(data_dir, limits=Limits(max_queue=MAX_QUEUE)).run(sockets=[listening])


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
