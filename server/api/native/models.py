"""Models: which there are, which one is loaded; loading, letting go and deleting them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool

from converter.errors import MemoryShortage
from converter.folder import ModelFolder
from server.api.dependencies import Answers, Models, Queue
from server.api.native.conversions import AllConversions, conversion_out
from server.api.native.errors import error
from server.api.native.model_schemas import (
    InstalledModelOut,
    MemoryOut,
    ModelsOut,
)
from server.api.native.schemas import SizeOut
from server.errors import ApiError
from server.jobs.queue import JobQueue
from server.models.installed import InstalledModels, NotDeletable, UnknownModel
from server.models.memory import memory_need

router = APIRouter(prefix="/api/v1/models", tags=["models"])

#: Loading waits for the jobs that were ordered before; a client that waits longer than this looks again.
_LOAD_SECONDS = 600.0
#: A worker that dies while it loads says nothing more.
_LOOK_SECONDS = 1.0

_ABSENT: Answers = {404: error("There is no such model"), 422: error("A parameter is not acceptable")}


def _budget(request: Request) -> int:
    budget: int = request.app.state.memory_budget
    return budget


Budget = Annotated[int, Depends(_budget)]


def model_url(name: str) -> str:
    """Return the path of a model."""
    return f"/api/v1/models/{quote(name, safe='')}"


def _known(models: InstalledModels, name: str) -> str:
    try:
        return models.find(name)
    except UnknownModel as unknown:
        raise ApiError(404, "no_such_model", str(unknown)) from unknown


def _memory(folder: ModelFolder, budget: int) -> MemoryOut:
    need = memory_need(folder)
    try:
        return MemoryOut(together=need.together, in_turn=need.in_turn, fit=need.fit(budget))
    except MemoryShortage:
        return MemoryOut(together=need.together, in_turn=need.in_turn, fit="too_large")


def _model_out(name: str, models: InstalledModels, queue: JobQueue, budget: int) -> InstalledModelOut:
    """A model as JSON; raises ApiError 404 where it goes while it is looked at."""
    try:
        return _describe(name, models, queue, budget)
    except (UnknownModel, FileNotFoundError) as gone:
        raise ApiError(404, "no_such_model", f"the model {name} has just been deleted") from gone


def _describe(name: str, models: InstalledModels, queue: JobQueue, budget: int) -> InstalledModelOut:
    model = models.get(name)
    manifest = model.manifest
    return InstalledModelOut(
        name=name,
        url=model_url(name),
        default=name == models.default,
        loaded=name == queue.loaded,
        jobs=queue.jobs_for(name),
        manifest_name=manifest.name,
        family=manifest.family,
        prediction_type=manifest.prediction_type,
        attention=manifest.attention,
        precision=manifest.precision,
        sizes=[SizeOut(width=w, height=h) for w, h in manifest.sizes],
        networks=list(manifest.networks),
        source=manifest.source.path_or_id,
        source_sha256=manifest.source.sha256,
        disk_bytes=models.disk_bytes(name),
        memory=_memory(ModelFolder(model.folder, manifest), budget),
    )


@router.get("", summary="The models there are")
def all_models(models: Models, queue: Queue, conversions: AllConversions, budget: Budget) -> ModelsOut:
    """Installed ones with their sizes, on disk and in memory; conversions that are not over; what could be converted."""
    there: list[InstalledModelOut] = []
    for name in models.names():
        with contextlib.suppress(UnknownModel, FileNotFoundError):  # deleted since its name was read
            there.append(_describe(name, models, queue, budget))
    return ModelsOut(
        default=models.default,
        models=there,
        conversions=[conversion_out(c) for c in conversions.all() if c.open],
        checkpoints=list(conversions.checkpoints()),
    )


@router.get("/{name}", responses=_ABSENT, summary="A model")
def model(name: str, models: Models, queue: Queue, budget: Budget) -> InstalledModelOut:
    """What it is and takes, whether it is loaded, and how many jobs want it."""
    return _model_out(_known(models, name), models, queue, budget)


_LOADING: Answers = {
    **_ABSENT,
    202: {"model": InstalledModelOut, "description": "It is still to be loaded, after the jobs that came before"},
    409: error("It takes more memory than models may"),
    503: error("It cannot be loaded, or nothing can now"),
}


@router.post("/{name}/load", response_model=InstalledModelOut, responses=_LOADING, summary="Load a model")
async def load(name: str, models: Models, queue: Queue, budget: Budget) -> Response:
    """Answers once it is loaded. It waits for the jobs that came before; the model that was loaded is let go."""
    known = await run_in_threadpool(_known, models, name)
    if queue.readiness.state != "ready":
        raise ApiError(503, "not_ready", f"nothing can be loaded now: {queue.readiness.state}; see /readyz")
    await run_in_threadpool(_require_room, known, models, budget)
    is_loaded = await _loaded(known, queue)
    body = await run_in_threadpool(_model_out, known, models, queue, budget)
    return Response(body.model_dump_json(), 200 if is_loaded else 202, media_type="application/json")


def _require_room(name: str, models: InstalledModels, budget: int) -> None:
    try:
        model = models.get(name)
        memory_need(ModelFolder(model.folder, model.manifest)).fit(budget)
    except MemoryShortage as short:
        raise ApiError(409, "not_enough_memory", f"{name} cannot be loaded: {short}") from short
    except (UnknownModel, FileNotFoundError) as gone:
        raise ApiError(404, "no_such_model", f"the model {name} has just been deleted") from gone


async def _loaded(name: str, queue: JobQueue) -> bool:
    """Have the model loaded; whether it was in time. Raises ApiError where it cannot be."""
    events = queue.events.subscribe(f"models/{name}")
    try:
        queue.load(name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOAD_SECONDS):
                while queue.loaded != name:
                    event = None
                    with contextlib.suppress(TimeoutError):
                        event = await asyncio.wait_for(anext(events, None), _LOOK_SECONDS)
                    if event is not None and event.kind == "failed":
                        raise ApiError(503, event.data["code"], event.data["message"])
                    if queue.readiness.state == "failed":
                        raise ApiError(503, "model_failed", str(queue.readiness.message))
    finally:
        events.close()
    return queue.loaded == name


@router.post(
    "/{name}/unload",
    responses={**_ABSENT, 202: {"model": InstalledModelOut, "description": "It goes after the job it is at"}},
    summary="Let a model's memory go",
)
def unload(name: str, models: Models, queue: Queue, budget: Budget, response: Response) -> InstalledModelOut:
    """It goes as soon as the job it is at is over, and is loaded again for the next that wants it."""
    known = _known(models, name)
    if queue.loaded == known:
        response.status_code = 202
        queue.unload(known)
    return _model_out(known, models, queue, budget)


@router.delete(
    "/{name}",
    status_code=204,
    responses={**_ABSENT, 409: error("Jobs need it, it is the default, it is being converted, or it lies elsewhere")},
    summary="Delete a model",
)
def delete(name: str, models: Models, queue: Queue, conversions: AllConversions) -> None:
    """Its folder goes from the data folder; what it was made from stays."""
    known = _known(models, name)
    if known == models.default:
        raise ApiError(409, "in_use", f"{known} is the default model; start the server with another one first")
    if (waiting := queue.jobs_for(known)) > 0:
        raise ApiError(409, "in_use", f"{waiting} jobs need {known}; cancel them or wait")
    if conversions.making(known) is not None:
        raise ApiError(409, "in_use", f"{known} is being converted; cancel that first")
    queue.unload(known)
    try:
        models.delete(known)
    except (UnknownModel, FileNotFoundError) as gone:
        raise ApiError(404, "no_such_model", f"the model {known} has just been deleted") from gone
    except NotDeletable as elsewhere:
        raise ApiError(409, "not_deletable", str(elsewhere)) from elsewhere
