"""The HTTP application: its routes share one job queue; the model runs in another process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.routing import iter_route_contexts

from converter import __version__
from server.api import health, metrics, page
from server.api.backend import Backend
from server.api.dialect import OPEN, Dialect, Dialects, limit_in
from server.api.errors import install_error_handlers
from server.api.head import Head
from server.api.mcp.dialect import MCP
from server.api.native.dialect import NATIVE
from server.api.openai.dialect import OPENAI
from server.api.openapi import complete
from server.api.query import check_query
from server.api.sdapi.dialect import SDAPI
from server.api.service import Service
from server.api.upload_memory import UploadMemory
from server.bonjour import Announcement, announced
from server.pipeline.prompts.counting import TokenCounter
from server.security.body import USUAL_BODY, LimitOf
from server.security.gate import Access, Gate
from server.shutdown import Shutdown

_ABOUT = "Makes images from text on this machine; nothing typed or uploaded leaves it."

#: To add a dialect, add a folder next to native/ and its name here.
DIALECTS = (NATIVE, OPENAI, SDAPI, MCP)


class _App(FastAPI):
    """An app whose OpenAPI document includes what its dialects and its gate add."""

    def __init__(self, dialects: Dialects, **options: Any) -> None:
        super().__init__(**options)
        self._dialects = dialects

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document; it is made once."""
        if self.openapi_schema is None:
            self.openapi_schema = complete(super().openapi(), self._dialects)
        return self.openapi_schema


def limit_of_routes(app: FastAPI) -> LimitOf:
    """Return the function that returns the limit of a request's body: that of its route."""
    extras = [(route, getattr(route, "openapi_extra", None) or {}) for route in iter_route_contexts(app.routes)]
    limits = [(route.methods or set(), route.path_regex, limit_in(extra)) for route, extra in extras]
    others = [limit for limit in limits if limit[2] != USUAL_BODY]

    def limit_of(method: str, path: str) -> int:
        return next((n for methods, regex, n in others if method in methods and regex.fullmatch(path)), USUAL_BODY)

    return limit_of


def open_routes(app: FastAPI) -> frozenset[tuple[str, str]]:
    """Return the method and path of every route that needs no API key."""
    extras = [(route, getattr(route, "openapi_extra", None) or {}) for route in iter_route_contexts(app.routes)]
    routes = [route for route, extra in extras if extra.get("security") == OPEN["security"]]
    return frozenset((method, str(route.path)) for route in routes for method in route.methods or ())


def create_app(
    open_backend: Callable[[], Backend],
    access: Access | None = None,
    grace_seconds: float = 0.0,
    announcement: Announcement | None = None,
    dialects: Sequence[Dialect] = DIALECTS,
) -> FastAPI:
    """Return the app; by default, ``access`` allows this machine only, without a key.

    The app calls ``open_backend`` when it starts and closes the backend when it stops; a job that is running then has
    ``grace_seconds`` to finish before it returns to the queue. While the app runs, Bonjour announces ``announcement``.
    """
    by_path = Dialects(dialects)
    access = access or Access()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        backend = open_backend()
        app.state.queue, app.state.models = backend.queue, backend.models
        app.state.addons = backend.addons
        app.state.service = Service(backend.queue, backend.store, backend.models, backend.upscalers, backend.addons)
        app.state.conversions, app.state.memory_budget = backend.conversions, backend.memory_budget
        app.state.any_model = backend.any_model
        app.state.shutdown = Shutdown(lambda: backend.stop(grace_seconds))
        backend.start()
        try:
            async with announced(announcement) if announcement is not None else nullcontext():
                yield
        finally:
            await app.state.shutdown()
            backend.close()

    # FastAPI's own documentation pages load scripts from another host.
    app = _App(
        by_path,
        title="Anemone",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.authenticator = access.authenticator
    app.state.upload_memory, app.state.token_counter = UploadMemory(), TokenCounter()
    for dialect in by_path.all:
        checks = [] if dialect.ignores_query else [Depends(check_query)]
        for router in dialect.routers:
            app.include_router(router, dependencies=checks)
    for router in (health.router, metrics.router, page.router):
        app.include_router(router)
    install_error_handlers(app, by_path.render_error)
    app.add_middleware(Head)
    app.add_middleware(
        Gate,
        access=access,
        render=by_path.render_error,
        open_routes=open_routes(app),
        limit_of=limit_of_routes(app),
    )
    return app
