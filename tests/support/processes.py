"""Processes for tests as copies of one that has the imports: a fresh interpreter takes a second of CPU for them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from server.supervisor import Launch

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.support.fake_converter", "server.jobs.local_worker", "server.jobs.worker"])


def copied(target: Callable[..., None], *arguments: object, name: str) -> Launch:
    """Return a launcher of ``target(pipe, *arguments)`` like `server.supervisor.spawn`.

    Ctrl-C reaches its processes: only for servers that get none.
    """

    def launch(pipe: Connection) -> BaseProcess:
        process = _PROCESSES.Process(target=target, args=(pipe, *arguments), name=name, daemon=True)
        process.start()
        return process

    return launch
