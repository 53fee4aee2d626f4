"""A real server with the tests' fake pipeline in a process of its own, for the benchmarks that measure serving."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

from server.jobs.ledger import Limits
from tests.support import live_server

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 300.0
#: Jobs that may wait in the measured server, for figures of a long queue.
MAX_QUEUE = 20_000

until = partial(live_server.until, patience=PATIENCE_S)


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
                until(lambda: live_server.answers(client))
                yield process, client
        finally:
            process.kill()


def ready(client: httpx.Client) -> None:
    """Wait until the server can make an image."""
    until(lambda: client.get("/readyz").status_code == 200)


def _serve(data_dir: Path) -> None:
    with live_server.bound() as listening:
        print(listening.getsockname()[1], flush=True)
        live_server.server(data_dir, limits=Limits(max_queue=MAX_QUEUE)).run(sockets=[listening])


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
