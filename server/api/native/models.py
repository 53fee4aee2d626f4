"""The native API's models: list, load, unload and delete them."""

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
from server.api.errors import from_fault
from server.api.native import PREFIX
from server.api.native.conversions import AllConversions, conversion_out, conversion_url
from server.api.native.errors import error
from server.api.native.model_schemas import (
    InstalledModelOut,
    MemoryOut,
    ModelsOut,
)
from server.api.native.schemas import SizeOut
from server.errors import ApiError
from server.jobs.dispatcher import NoWorker
from server.jobs.queue import JobQueue
from server.models.conversions import Conversions
from server.models.installed import InstalledModels, NotDeletable, UnknownModel
from server.models.memory import memory_need

router = APIRouter(prefix=f"{PREFIX}/models", tags=["models"])

#: Seconds: loading waits for earlier jobs; after this time the answer is 202, and the client polls.
_LOAD_SECONDS = 600.0

_ABSENT: Answers = {404: error("The model does not exist"), 422: error("A parameter is not accepted")}


def _budget(request: Request) -> int:
    budget: int = request.app.state.memory_budget
    return budget


Budget = Annotated[int, Depends(_budget)]


def model_url(name: str) -> str:
    """Return the path of a model."""
    return f"{PREFIX}/models/{quote(name, safe='')}"


def _require_model(models: InstalledModels, conversions: Conversions, name: str) -> str:
    try:
        return models.find(name)
    except UnknownModel as unknown:
        message = str(unknown)
        if (making := conversions.making(name)) is not None:
            message = f"the model {name} is still being converted; {conversion_url(making.id)} shows how far it is"
        raise ApiError(404, "no_such_model", message) from unknown


def _memory(folder: ModelFolder, budget: int) -> MemoryOut:
    need = memory_need(folder)
    try:
        return MemoryOut(together=need.together, in_turn=need.in_turn, fit=need.fit(budget))
    except MemoryShortage:
        return MemoryOut(together=need.together, in_turn=need.in_turn, fit="too_large")


def _model_out(name: str, models: InstalledModels, queue: JobQueue, budget: int) -> InstalledModelOut:
    """Return a model as a response body; raise ApiError 404 if it is deleted meanwhile."""
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
        loaded=name in queue.loaded,
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


@router.get("", summary="List models")
def all_models(models: Models, queue: Queue, conversions: AllConversions, budget: Budget) -> ModelsOut:
    """Returns installed models, with sizes on disk and in memory; running and queued conversions; and checkpoints."""
    installed: list[InstalledModelOut] = []
    for name in models.names():
        with contextlib.suppress(UnknownModel, FileNotFoundError):  # deleted since its name was read
            installed.append(_describe(name, models, queue, budget))
    return ModelsOut(
        default=models.default,
        models=installed,
        conversions=[conversion_out(c) for c in conversions.all() if c.open],
        checkpoints=list(conversions.checkpoints()),
    )


@router.get("/{name}", responses=_ABSENT, summary="Get a model")
def model(name: str, models: Models, queue: Queue, conversions: AllConversions, budget: Budget) -> InstalledModelOut:
    """Returns the model's properties, its sizes on disk and in memory, its jobs, and whether it is loaded."""
    return _model_out(_require_model(models, conversions, name), models, queue, budget)


_LOADING: Answers = {
    **_ABSENT,
    202: {"model": InstalledModelOut, "description": "The model will be loaded after the jobs ahead of it"},
    409: error("The model needs more memory than models may use"),
    503: error("The model cannot be loaded, or the worker is not ready"),
}


@router.post("/{name}/load", response_model=InstalledModelOut, responses=_LOADING, summary="Load a model")
async def load(name: str, models: Models, queue: Queue, conversions: AllConversions, budget: Budget) -> Response:
    """Answers when the model is loaded, after the jobs ahead of it; the server unloads the previous model."""
    name = await run_in_threadpool(_require_model, models, conversions, name)
    readiness = queue.readiness
    if readiness.cause is not None:
        raise from_fault(readiness.cause)
    if readiness.state != "ready":
        raise ApiError(503, "not_ready", f"the worker is not ready: {readiness.state}; see /readyz")
    await run_in_threadpool(_require_memory, name, models, budget)
    is_loaded = await _loaded(name, queue)
    body = await run_in_threadpool(_model_out, name, models, queue, budget)
    return Response(body.model_dump_json(), 200 if is_loaded else 202, media_type="application/json")


def _require_memory(name: str, models: InstalledModels, budget: int) -> None:
    try:
        model = models.get(name)
        memory_need(ModelFolder(model.folder, model.manifest)).fit(budget)
    except MemoryShortage as short:
        raise ApiError(409, "not_enough_memory", f"{name} cannot be loaded: {short}") from short
    except (UnknownModel, FileNotFoundError) as gone:
        raise ApiError(404, "no_such_model", f"the model {name} has just been deleted") from gone


async def _loaded(name: str, queue: JobQueue) -> bool:
    """Load the model and return whether it was loaded in time; raise ApiError if it cannot be loaded."""
    events = queue.events.subscribe(f"models/{name}")
    try:
        await run_in_threadpool(_begin_loading, name, queue)
        async with asyncio.timeout(_LOAD_SECONDS):
            while name not in queue.loaded:
                event = await anext(events, None)
                if event is None:
                    raise ApiError(503, "not_ready", "the server is stopping")
                if event.kind == "failed":
                    raise ApiError(503, event.data["code"], event.data["message"])
                if event.kind == "loaded":  # and perhaps unloaded since, for the next job's model
                    break
                if event.last:  # it was unloaded; the next load has a new channel
                    events.close()
                    events = queue.events.subscribe(f"models/{name}")
    except TimeoutError:
        return False
    finally:
        events.close()
    return True


def _begin_loading(name: str, queue: JobQueue) -> None:
    try:
        queue.load(name)
    except UnknownModel as gone:
        raise ApiError(404, "no_such_model", f"the model {name} has just been deleted") from gone
    except NoWorker as waiting:
        raise ApiError(503, "not_ready", str(waiting), headers={"Retry-After": "5"}) from waiting


@router.post(
    "/{name}/unload",
    responses={
        **_ABSENT,
        202: {"model": InstalledModelOut, "description": "The server unloads the model when the running job ends"},
    },
    summary="Unload a model",
)
def unload(
    name: str, models: Models, queue: Queue, conversions: AllConversions, budget: Budget, response: Response
) -> InstalledModelOut:
    """Frees the model's memory when the running job ends; the next job of the model loads it again."""
    name = _require_model(models, conversions, name)
    if name in queue.loaded:
        response.status_code = 202
        queue.unload(name)
    return _model_out(name, models, queue, budget)


@router.delete(
    "/{name}",
    status_code=204,
    responses={
        **_ABSENT,
        409: error(
            "Jobs need the model, it is the default or being converted, or its folder is outside the data folder"
        ),
    },
    summary="Delete a model",
)
def delete(name: str, models: Models, queue: Queue, conversions: AllConversions) -> None:
    """Deletes the model's folder in the data folder, but not the source."""
    name = _require_model(models, conversions, name)
    if name == models.default:
        raise ApiError(409, "in_use", f"{name} is the default model; start the server with another one first")
    if (waiting := queue.jobs_for(name)) > 0:
        raise ApiError(409, "in_use", f"{waiting} jobs need {name}; cancel them or wait")
    if conversions.making(name) is not None:
        raise ApiError(409, "in_use", f"{name} is being converted; cancel that first")
    queue.unload(name)
    try:
        models.delete(name)
    except (UnknownModel, FileNotFoundError) as gone:
        raise ApiError(404, "no_such_model", f"the model {name} has just been deleted") from gone
    except NotDeletable as elsewhere:
        raise ApiError(409, "not_deletable", str(elsewhere)) from elsewhere
