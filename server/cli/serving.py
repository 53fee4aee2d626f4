"""``anemone serve``: the app on a port, with its worker."""

from __future__ import annotations

import fcntl
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from converter.errors import AnemoneError
from server.api.app import create_app
from server.api.backend import Backend
from server.bonjour import Announcement
from server.jobs.dispatcher import Readiness
from server.jobs.ledger import Limits
from server.jobs.local_worker import WorkerSettings, start_worker
from server.jobs.queue import JobQueue
from server.jobs.store import JobStore, Retention
from server.logs import log_as
from server.models.conversions import Conversions, launch_conversion
from server.models.first import FirstModel
from server.models.memory import memory_budget
from server.security.gate import Access
from server.security.hosts import Hosts, own_addresses, own_names
from server.security.key import FILE, ApiKey, Authenticator, kept_key
from server.security.tls import Certificate, given_certificate, own_certificate
from server.settings import Settings
from server.shutdown import Server
from server.supervisor import Launch, spawn
from server.terminal import Bar


@contextmanager
def _sole_user(data_dir: Path) -> Iterator[None]:
    """Hold the data folder; two servers on one would run each other's jobs."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # prompts and pictures are its owner's
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
        if now.progress is not None and now.state == now.progress.stage:
            self._bar.show(f"{now.state} {now.progress.item}", now.progress.done, now.progress.total)
            return
        self._bar.close()
        if now.state == "ready":
            print(f"ready: {now.model} at {self._url}", file=sys.stderr, flush=True)
        elif now.state == "failed":
            print(f"anemone: the model cannot be loaded: {now.message}", file=sys.stderr, flush=True)


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named as TCP: asyncio turns Nagle's delay off only where the protocol says so, and answers would wait 40 ms for it.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        raise AnemoneError(
            f"port {settings.port} on {settings.host} cannot be used: {error.strerror}; give another --port"
        ) from error
    return bound


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _access(settings: Settings) -> Access:
    """Who may do what; on the network a key is made where there is none, and shown this once."""
    text = settings.api_key.get_secret_value() if settings.api_key is not None else None
    if text is None and settings.on_network:
        text, is_new = kept_key(settings.data_dir)
        if is_new:
            _say(f"API key: {text}")
        _say(f"the API key is kept in {settings.data_dir / FILE}; clients send it as Authorization: Bearer KEY")
    return Access(
        hosts=Hosts(settings.on_network, settings.allowed_hosts),
        origins=settings.cors_origins,
        authenticator=Authenticator(ApiKey(text) if text is not None else None),
        rate=settings.rate_limit,
    )


def _certificate(settings: Settings) -> Certificate | None:
    if settings.tls_cert is not None and settings.tls_key is not None:
        return given_certificate(settings.tls_cert, settings.tls_key)
    if not settings.tls:
        return None
    network = (*own_names(), *own_addresses()) if settings.on_network else ()
    made = own_certificate(settings.data_dir, ("localhost", "127.0.0.1", "::1", *network, *settings.allowed_hosts))
    _say(f"certificate {made.cert}\nSHA-256 fingerprint {made.fingerprint}")
    return made


def _urls(settings: Settings, port: int) -> str:
    """Where the server can be reached, for its owner to read."""
    hosts = [settings.host]
    if settings.host in ("0.0.0.0", "::"):
        hosts = [*(name for name in own_names() if name.endswith(".local")), *own_addresses()]
    scheme = "https" if settings.serves_tls else "http"
    return ", ".join(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}" for host in hosts)


def worker_launcher(settings: Settings, first: FirstModel) -> Launch:
    """Return what starts a worker. Nothing of the worker's is imported in this process."""
    worker = WorkerSettings(
        settings.data_dir.absolute(),
        dict(settings.compute_units),
        extra=first.outside,
        memory_budget=memory_budget(settings.memory_budget_gb),
        previews=settings.previews,
        precision=settings.precision,
    )
    return spawn(start_worker, worker, name="anemone-worker")


def _limits(settings: Settings) -> Limits:
    idle = settings.idle_unload_minutes
    return Limits(
        max_queue=settings.max_queue,
        idle_unload_seconds=None if idle is None else 60 * idle,
        retention=Retention(days=settings.retention_days, gigabytes=settings.retention_gb),
    )


def serve(settings: Settings) -> int:
    """Serve until interrupted or told to leave (SIGINT, SIGTERM)."""
    log_as(settings.log_format)
    with _sole_user(settings.data_dir), _bound(settings) as bound:
        urls = _urls(settings, bound.getsockname()[1])
        access, certificate = _access(settings), _certificate(settings)
        _say(f"Anemone at {urls}, data in {settings.data_dir}")
        console = _Console(urls)

        first = FirstModel(settings.model, settings.data_dir.absolute())
        store = JobStore(settings.data_dir)
        queue = JobQueue(store, [worker_launcher(settings, first)], first.models, console, _limits(settings))
        launch = launch_conversion(settings.data_dir.absolute(), settings.log_format)
        conversions = Conversions(settings.data_dir, first.models, queue.events, launch)
        budget = memory_budget(settings.memory_budget_gb)
        backend = Backend(store, queue, first.models, conversions, first, budget)
        here = Announcement(settings.host, bound.getsockname()[1], settings.serves_tls)
        announcement = here if settings.on_network and settings.advertise else None
        app = create_app(lambda: backend, access, settings.shutdown_seconds, announcement)
        tls = {} if certificate is None else {"ssl_certfile": certificate.cert, "ssl_keyfile": certificate.key}
        Server(app, settings.shutdown_seconds, **tls).run(sockets=[bound])
    return 0
