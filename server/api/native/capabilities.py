"""The native API's capabilities: models, limits and features, for clients to adapt to."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from fastapi import APIRouter
from pydantic import BaseModel, Field, create_model

from converter import __version__
from converter.folder import Manifest
from server.api.dependencies import Models, Queue
from server.api.native import PREFIX
from server.api.native.schemas import SizeOut
from server.jobs.job import PRIORITIES
from server.models.installed import InstalledModels, UnknownModel
from server.pipeline.request import RNGS, defaults, limits, longest_prompt
from server.pipeline.schedulers import SCHEDULERS
from server.security.body import LARGEST_BODY

router = APIRouter(prefix=PREFIX, tags=["native"])

#: Features that clients can rely on; the meaning of a word never changes.
FEATURES = (
    "txt2img",
    "img2img",
    "batches",
    "per_image_seeds",
    "variations",
    "cancel_queued",
    "cancel_running",
    "events",
    "previews",
    "priorities",
    "idempotency_keys",
    "model_switching",
    "conversions",
)


class DefaultsOut(BaseModel):
    """A request's defaults."""

    width: int
    height: int
    steps: int
    guidance_scale: float
    scheduler: str
    strength: float


class ModelOut(BaseModel):
    """An installed model's properties for requests; `GET /api/v1/models/{name}` has more."""

    name: str
    family: str
    prediction_type: str
    attention: str
    precision: str
    sizes: list[SizeOut]
    source_sha256: str
    inpainting: bool = Field(description="Whether it was trained for inpainting")
    defaults: DefaultsOut


class _Limits(BaseModel):
    """The least and greatest value of a request's fields."""

    prompt_characters: int = longest_prompt()
    body_bytes: int = LARGEST_BODY
    queue: int = Field(description="Jobs that may wait at once")


if TYPE_CHECKING:
    LimitsOut = _Limits
else:
    LimitsOut = create_model(
        "LimitsOut",
        __base__=_Limits,
        __doc__=_Limits.__doc__,
        **{name: (tuple[type(low), type(low)], (low, high)) for name, (low, high) in limits().items()},
    )


class CapabilitiesOut(BaseModel):
    """The server's current capabilities. ``model`` and ``defaults`` are null until the default model is installed."""

    version: str
    model: ModelOut | None = Field(description="The default model, for requests without `model`")
    defaults: DefaultsOut | None = Field(description="The default model's request defaults")
    models: list[ModelOut] = Field(description="All installed models, the default one included")
    loaded: list[str] = Field(description="The loaded models; jobs of other models wait until theirs is loaded")
    schedulers: list[str]
    rngs: list[str] = Field(description="Random number generators that a request may name")
    priorities: list[str]
    features: list[str]
    limits: LimitsOut


def _defaults(manifest: Manifest) -> DefaultsOut:
    values = defaults(manifest)
    return DefaultsOut(**{name: values[name] for name in DefaultsOut.model_fields})


def _model(name: str, models: InstalledModels) -> ModelOut:
    manifest = models.manifest(name)
    return ModelOut(
        name=name,
        family=manifest.family,
        prediction_type=manifest.prediction_type,
        attention=manifest.attention,
        precision=manifest.precision,
        sizes=[SizeOut(width=w, height=h) for w, h in manifest.sizes],
        source_sha256=manifest.source.sha256,
        inpainting=manifest.conditions.inpainting,
        defaults=_defaults(manifest),
    )


@router.get("/capabilities", summary="Get the server's capabilities")
def capabilities(queue: Queue, models: Models) -> CapabilitiesOut:
    """Returns models with their sizes and defaults, schedulers, random number generators, features and limits."""
    installed: list[ModelOut] = []
    for name in models.names():
        with suppress(UnknownModel):  # deleted meanwhile
            installed.append(_model(name, models))
    default = next((m for m in installed if m.name == models.default), None)
    return CapabilitiesOut(
        version=__version__,
        model=default,
        defaults=None if default is None else default.defaults,
        models=installed,
        loaded=queue.loaded,
        schedulers=list(SCHEDULERS),
        rngs=list(RNGS),
        priorities=list(PRIORITIES),
        features=list(FEATURES),
        limits=LimitsOut(queue=queue.limits.max_queue),
    )
