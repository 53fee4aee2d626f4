"""The HTTP application: routes over one job queue, with the model in a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from converter import __version__
from server.errors import install_error_handlers
from server.jobs.queue import JobQueue
from server.jobs.store import JobStore
from server.routes import health, native, ui, wire
from server.security import Gate

_ABOUT = "Makes pictures from words on this machine; nothing typed or uploaded leaves it."


def create_app(open_queue: Callable[[], tuple[JobStore, JobQueue]]) -> FastAPI:
    """The app. ``open_queue`` is called when it starts, and what it gives is closed when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.store, app.state.queue = open_queue()
        app.state.queue.start()
        try:
            yield
        finally:
            app.state.queue.stop()
            app.state.store.close()

    # FastAPI's own documentation pages load scripts from another host.
    app = FastAPI(
        title="Anemone", version=__version__, description=_ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    install_error_handlers(app)
    app.add_middleware(Gate)
    app.include_router(native.router)
    app.include_router(health.router)
    app.include_router(ui.router)
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        # img2img reads its body itself, so FastAPI has not seen its schemas.
        for model in (wire.Img2Img, wire.Img2ImgJson):
            document["components"]["schemas"][model.__name__] = model.model_json_schema()
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    return app
