"""The options: the model of requests that name none, and what clients expect beside it; loading and unloading."""

from __future__ import annotations

import contextlib
from typing import Any

import psutil
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from server.api.dependencies import Models, Queue
from server.api.sdapi import PREFIX
from server.api.sdapi.bodies import Body, Name, read_body, route_of
from server.api.sdapi.checkpoints import checkpoints, find_checkpoint
from server.api.sdapi.errors import BAD_BODY
from server.api.sdapi.state import Current, Remembered
from server.jobs.dispatcher import NoWorker
from server.models.installed import UnknownModel

router = APIRouter(prefix=PREFIX, tags=["automatic1111"])


class OptionsBody(Body):
    """Options to set; all but the model are accepted and ignored."""

    sd_model_checkpoint: Name | None = Field(
        None, description="The model of requests that name none, by its title, name or hash, until the server stops"
    )


class OptionsOut(BaseModel):
    """The options; all of them may be sent back."""

    sd_model_checkpoint: str = Field(description="The title of the model of requests that name none")
    sd_checkpoint_hash: str = Field(description="Its sha256; empty while it is not installed")
    sd_vae: str = "Automatic"
    CLIP_stop_at_last_layers: int = 1
    samples_format: str = "png"
    live_previews_enable: bool = True
    live_previews_image_format: str = "png"


class FlagsOut(BaseModel):
    """The server's flags; only `api` is shown."""

    api: bool = True


class MemoryOut(BaseModel):
    """Memory in bytes."""

    ram: dict[str, int]
    cuda: dict[str, str] = {"error": "unavailable"}


@router.get("/options", summary="Get the options")
def options(models: Models, current: Current) -> OptionsOut:
    """Returns the model of requests that name none, and what clients expect beside it."""
    chosen = next((each for each in checkpoints(models) if each.name == current), None)
    if chosen is None:  # not installed yet, or deleted
        return OptionsOut(sd_model_checkpoint=current or "", sd_checkpoint_hash="")
    return OptionsOut(sd_model_checkpoint=chosen.title, sd_checkpoint_hash=chosen.sha256)


@router.post(
    "/options", responses=BAD_BODY, openapi_extra=route_of(OptionsBody, images=False), summary="Set the options"
)
async def set_options(request: Request, models: Models, state: Remembered) -> None:
    """Chooses the model of this dialect's requests that name none; other requests keep theirs. Accepts every other key.

    Answers `null`.
    """
    asked = (await read_body(request, OptionsBody)).sd_model_checkpoint
    if asked:
        state.model = await run_in_threadpool(find_checkpoint, models, asked, "sd_model_checkpoint")


@router.get("/cmd-flags", summary="Get the flags that the server was started with")
async def cmd_flags() -> FlagsOut:
    """Returns no settings of the server: they may be secret."""
    return FlagsOut()


@router.get("/memory", summary="Get the machine's memory")
async def memory() -> MemoryOut:
    """Returns the free, used and whole memory."""
    now = psutil.virtual_memory()
    return MemoryOut(ram={"free": now.available, "used": now.total - now.available, "total": now.total})


@router.post("/unload-checkpoint", summary="Unload the model")
def unload_checkpoint(queue: Queue, current: Current) -> dict[str, Any]:
    """Frees the memory of the model of requests that name none, once its running job has ended."""
    if current is not None and current in queue.loaded:
        queue.unload(current)
    return {}


@router.post("/reload-checkpoint", summary="Load the model")
def reload_checkpoint(queue: Queue, current: Current) -> dict[str, Any]:
    """Begins to load the model of requests that name none; a request would load it as well."""
    # Without a model or a worker there is nothing to load yet; a request says why.
    with contextlib.suppress(UnknownModel, NoWorker):
        if current is not None:
            queue.load(current)
    return {}
