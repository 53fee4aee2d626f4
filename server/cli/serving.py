"""Serves the app on a port, with its worker, for ``anemone serve``."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from converter.errors import AnemoneError
from server.api.app import create_app
from server.api.backend import Backend
from server.bonjour import Announcement
from server.cli.listening import listening_socket, urls
from server.jobs.ledger import Limits
from server.jobs.local_worker import WorkerSettings, start_worker
from server.jobs.queue import JobQueue
from server.jobs.readiness import Readiness
from server.jobs.store import JobStore, Retention
from server.logs import log_as
from server.models.conversion import Conversion
from server.models.conversions import Conversions, launch_conversion
from server.models.first import FirstModel
from server.models.loras import Addons
from server.models.memory import memory_budget
from server.models.upscalers import InstalledUpscalers
from server.pipeline.images import return_freed_memory
from server.security import sessions
from server.security.connections import ConnectionLimits, raise_open_files
from server.security.gate import Access
from server.security.hosts import Hosts, own_addresses, own_ipv6_addresses, own_names
from server.security.key import FILE, ApiKey, Authenticator, kept_key
from server.security.private import make_private, private_files
from server.security.tls import Certificate, own_certificate, user_certificate
from server.settings import Settings
from server.shutdown import Server
from server.supervisor import Launch, spawn
from server.terminal import Bar, say


@contextmanager
def _sole_user(data_dir: Path) -> Iterator[None]:
    """Make the data folder and lock it; two servers that share one would run each other's jobs."""
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
    """Shows the model's progress in the terminal."""

    def __init__(self, url: str) -> None:
        self._bar, self._url = Bar(), url
        self._said: str | None = None

    def __call__(self, now: Readiness) -> None:
        with suppress(OSError):  # standard error is a file on a full disk, or a closed pipe; the server goes on
            self._show(now)

    def _show(self, now: Readiness) -> None:
        if now.progress is not None and now.state == now.progress.stage:
            self._bar.show(f"{now.state} {now.progress.item}", now.progress.done, now.progress.total)
            return
        self._bar.close()
        text = None
        if now.state == "ready":
            text = f"ready: {now.model} at {self._url}"
        elif now.state == "failed":
            text = f"anemone: the model cannot be loaded: {now.message}"
        elif now.state == "paused":
            text = f"anemone: not ready: {now.message}"
        if text is not None and text != self._said:
            say(text)
        self._said = text


def _access(settings: Settings) -> Access:
    """Return the access rules; on the network, make a missing API key and show it this one time."""
    text = settings.api_key.get_secret_value() if settings.api_key is not None else None
    if text is None and settings.on_network:
        text, is_new = kept_key(settings.data_dir)
        if is_new:
            say(f"API key: {text}")
        say(f"the API key is kept in {settings.data_dir / FILE}; clients send it as Authorization: Bearer KEY")
    return Access(
        hosts=Hosts(settings.on_network, settings.allowed_hosts),
        origins=settings.cors_origins,
        authenticator=Authenticator(ApiKey(text) if text is not None else None, settings.data_dir / sessions.FILE),
        rate=settings.rate_limit,
    )


def _certificate(settings: Settings) -> Certificate | None:
    if settings.tls_cert is not None and settings.tls_key is not None:
        return user_certificate(settings.tls_cert, settings.tls_key)
    if not settings.tls:
        return None
    names = ["localhost", "127.0.0.1", "::1", *settings.allowed_hosts]
    changing: tuple[str, ...] = ()
    if settings.on_network:
        names += [*own_names(), *own_addresses()]
        if settings.host not in ("0.0.0.0", "::"):
            names.append(settings.host.partition("%")[0])
        changing = own_ipv6_addresses()
    certificate = own_certificate(settings.data_dir, names, changing)
    say(f"certificate {certificate.cert}\nSHA-256 fingerprint {certificate.fingerprint}")
    return certificate


def worker_launcher(settings: Settings, first: FirstModel) -> Launch:
    """Return the function that starts a worker. This process imports none of the worker's modules."""
    worker = WorkerSettings(
        settings.data_dir.absolute(),
        dict(settings.compute_units),
        extra=first.outside,
        memory_budget=memory_budget(settings.memory_budget_gb),
        previews=settings.previews,
        mark_images=settings.mark_images,
        safety=settings.safety,
        precision=settings.precision,
        loras_dir=settings.loras_dir,
        embeddings_dir=settings.embeddings_dir,
        merged_limit=int(settings.merged_limit_gb * 10**9),
    )
    return spawn(start_worker, worker, name="anemone-worker")


def _limits(settings: Settings) -> Limits:
    idle = settings.idle_unload_minutes
    return Limits(
        max_queue=settings.max_queue,
        in_shares=settings.on_network,  # a server for this machine only has one client
        idle_unload_seconds=None if idle is None else 60 * idle,
        retention=Retention(days=settings.retention_days, gigabytes=settings.retention_gb),
    )


def serve(settings: Settings) -> int:
    """Serve until a signal stops the server, or the first model's conversion fails while no model is installed.

    Returns the exit status: 1 in the last case. Raises AnemoneError before anything is served if a setting is wrong.
    """
    log_as(settings.log_format)
    return_freed_memory()
    limits = ConnectionLimits.within(raise_open_files())
    with private_files(), _sole_user(settings.data_dir), listening_socket(settings.host, settings.port) as listening:
        if still_open := make_private(settings.data_dir):
            say(still_open)
        first = FirstModel(settings.model, settings.data_dir.absolute())
        first.require_usable()
        port = listening.getsockname()[1]
        reachable = urls(settings.host, port, "https" if settings.serves_tls else "http")
        access, certificate = _access(settings), _certificate(settings)
        say(f"Anemone at {reachable}, data in {settings.data_dir}")
        console = _Console(reachable)

        store = JobStore(settings.data_dir)
        queue = JobQueue(store, [worker_launcher(settings, first)], first.models, console, _limits(settings))
        launch = launch_conversion(settings.data_dir.absolute(), settings.log_format)
        conversions = Conversions(settings.data_dir, first.models, queue.events, launch)
        budget, upscalers = memory_budget(settings.memory_budget_gb), InstalledUpscalers(settings.data_dir.absolute())
        addons = Addons(settings.data_dir.absolute(), settings.loras_dir, settings.embeddings_dir)
        backend = Backend(store, queue, first.models, conversions, upscalers, first, addons, budget, settings.any_model)
        announcement = None
        if settings.on_network and settings.advertise:
            announcement = Announcement(settings.host, port, settings.serves_tls)
        app = create_app(lambda: backend, access, settings.shutdown_seconds, announcement)
        tls = {} if certificate is None else {"ssl_certfile": certificate.cert, "ssl_keyfile": certificate.key}
        server = Server(app, settings.shutdown_seconds, limits, **tls)
        is_useless = False

        def on_conversion(conversion: Conversion) -> None:
            nonlocal is_useless
            if conversion.id == first.request.id and conversion.status == "failed" and not first.models.names():
                server.should_exit = is_useless = True

        conversions.listen(on_conversion)
        server.run(sockets=[listening])
        return 1 if is_useless else server.status
