"""The installed models as OpenAI's API lists them, and the names that mean the default one."""

from __future__ import annotations

from contextlib import suppress

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from server.api.dependencies import Models
from server.api.openai import PREFIX
from server.api.openai.errors import error
from server.errors import ApiError
from server.models.installed import InstalledModel, InstalledModels, UnknownModel
from server.pipeline.request import defaults

router = APIRouter(prefix=PREFIX, tags=["openai"])

#: Names of OpenAI's models, which clients have written into them: the default model.
OPENAI_NAMES = frozenset(
    {
        "dall-e-2",
        "dall-e-3",
        "gpt-image-1",
        "gpt-image-1-mini",
        "gpt-image-1.5",
        "gpt-image-2",
        "gpt-image-2-2026-04-21",
        "chatgpt-image-latest",
    }
)


class ImageDefaults(BaseModel):
    """What a request takes that leaves these fields out."""

    steps: int
    cfg_scale: float
    width: int
    height: int
    size: str = Field(description="width and height, as the field `size` takes them", examples=["512x512"])
    scheduler: str


class OpenAIModel(BaseModel):
    """An installed model."""

    id: str
    object: str = "model"
    created: int = Field(description="When it was installed, in seconds since 1970")
    owned_by: str = "anemone"
    default: bool = Field(description="Whether requests that name no model use it")
    image_defaults: ImageDefaults
    sizes: list[str] = Field(description="The sizes that it was converted for; others are computed at the nearest one")


class OpenAIModels(BaseModel):
    """The installed models."""

    object: str = "list"
    data: list[OpenAIModel]


def _model_out(model: InstalledModel, default: str | None) -> OpenAIModel:
    """Return a model as a response body; raise FileNotFoundError if it was deleted meanwhile."""
    usual = defaults(model.manifest)
    return OpenAIModel(
        id=model.name,
        created=int(model.folder.stat().st_mtime),
        default=model.name == default,
        image_defaults=ImageDefaults(
            steps=usual["steps"],
            cfg_scale=usual["guidance_scale"],
            width=usual["width"],
            height=usual["height"],
            size=f"{usual['width']}x{usual['height']}",
            scheduler=usual["scheduler"],
        ),
        sizes=[f"{width}x{height}" for width, height in model.manifest.sizes],
    )


def _no_model(name: str, models: InstalledModels) -> ApiError:
    installed = ", ".join(models.names()) or "none yet"
    message = f"the model {name[:80]!r} is not installed; accepted: {installed}, and OpenAI's names for the default one"
    return ApiError(404, "model_not_found", message, field="model", value=name, accepted=installed)


def _found(name: str | None, models: InstalledModels, any_model: bool) -> InstalledModel | None:
    """Return the installed model that a request names; None for the default one. Raises ApiError 404."""
    if not name:
        return None
    try:
        return models.get(name)
    except UnknownModel:
        if name in OPENAI_NAMES or any_model:
            return None
        raise _no_model(name, models) from None


async def model_name(name: str | None, models: InstalledModels, request: Request) -> str | None:
    """Return the name of the installed model that a request names; None for the default one. Raises ApiError 404.

    An installed model goes before OpenAI's name; an unknown name is the default model if the server's owner says so.
    """
    if name is not None and models.cached(name) is not None:
        return name
    found = await run_in_threadpool(_found, name, models, bool(request.app.state.any_model))
    return None if found is None else found.name


@router.get("/models/", include_in_schema=False)
@router.get("/models", summary="List models, as OpenAI's API does")
def all_models(models: Models) -> OpenAIModels:
    """Returns the installed models with what a request takes that leaves fields out."""
    default, found = models.default, []
    for model in models.all():
        with suppress(FileNotFoundError):  # deleted meanwhile
            found.append(_model_out(model, default))
    return OpenAIModels(data=found)


@router.get("/models/{name:path}", responses={404: error("The model is not installed")}, summary="Get a model")
def model(name: str, models: Models, request: Request) -> OpenAIModel:
    """Returns an installed model, by its name or by one of OpenAI's, which mean the default one."""
    found = _found(name, models, bool(request.app.state.any_model))
    default = models.default
    try:
        return _model_out(found or models.get(default or name), default)
    except (UnknownModel, FileNotFoundError):
        raise _no_model(name, models) from None
