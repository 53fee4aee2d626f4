"""The HTTP application: routes over one job queue, with the model in a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext

from fastapi import FastAPI

from converter import __version__
from server.api import health, metrics, page, session
from server.api.backend import Backend
from server.api.errors import install_error_handlers
from server.api.native import capabilities, conversions, images, jobs, models
from server.api.openapi import completed
from server.bonjour import Announcement, announced
from server.security.gate import Access, Gate
from server.shutdown import Shutdown

_ABOUT = "Makes pictures from words on this machine; nothing typed or uploaded leaves it."


def create_app(
    open_backend: Callable[[], Backend],
    access: Access | None = None,
    grace_seconds: float = 0.0,
    announcement: Announcement | None = None,
) -> FastAPI:
    """The app, as open as ``access`` says: by default to this machine, without a key.

    ``open_backend`` is called when it starts, and what it gives is closed when it stops; the job that runs then may end
    within ``grace_seconds``, and goes back to the queue otherwise. ``announcement`` is told the network meanwhile.
    """
    access = access or Access()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        backend = open_backend()
        app.state.store, app.state.queue, app.state.models = backend.store, backend.queue, backend.models
        app.state.conversions, app.state.memory_budget = backend.conversions, backend.memory_budget
        app.state.shutdown = Shutdown(lambda: backend.stop(grace_seconds))
        backend.start()
        try:
            async with announced(announcement) if announcement is not None else nullcontext():
                yield
        finally:
            await app.state.shutdown()
            backend.close()

    # FastAPI's own documentation pages load scripts from another host.
    app = FastAPI(
        title="Anemone", version=__version__, description=_ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    install_error_handlers(app)
    app.state.door = access.door
    app.add_middleware(Gate, access=access)
    app.include_router(images.router)
    app.include_router(jobs.router)
    app.include_router(conversions.router)
    app.include_router(models.router)
    app.include_router(capabilities.router)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(session.router)
    app.include_router(page.router)
    plain = app.openapi
    app.openapi = lambda: completed(plain())  # type: ignore[method-assign]
    return app
