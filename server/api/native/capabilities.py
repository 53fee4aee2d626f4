"""The native API's capabilities: models, limits and features, for clients to adapt to."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter
from pydantic import BaseModel, Field

from converter import __version__
from converter.manifest import Manifest
from server.api.dependencies import Generation, Models, Queue
from server.api.native import PREFIX
from server.api.native.limits import LimitsOut
from server.api.native.schemas import SizeOut
from server.jobs.job import PRIORITIES
from server.models.installed import InstalledModels
from server.models.loras import Addons, InstalledEmbedding, InstalledLora
from server.pipeline.abilities import FURTHER, OF_TASKS, Ability, control_nets, ip_adapters
from server.pipeline.denoising.refining import refiners_for
from server.pipeline.encoding.formats import FORMATS
from server.pipeline.preprocessors.registry import PREPROCESSORS
from server.pipeline.request import RNGS, TASKS, defaults, fits
from server.pipeline.schedulers import SCHEDULERS

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
    "inpaint",
    "outpaint",
    "image_variations",
    "image_forms",
    "notes",
    "abilities",
    "any_size",
    "refiner",
    "controls",
    "preprocessors",
    "output_formats",
    "prompt_syntax",
    "clip_skip",
    "guidance_interval",
    "safety",
    "upscale",
    "palette",
    "adapter",
    "hires",
    "loras",
    "embeddings",
)


class DefaultsOut(BaseModel):
    """A request's defaults."""

    width: int
    height: int
    steps: int
    guidance_scale: float
    scheduler: str
    strength: float


class AbilityOut(BaseModel):
    """Whether a model can do something."""

    available: bool
    needs: str | None = Field(description="What it lacks, and which conversion brings it; null if it can")


class UpscalerOut(BaseModel):
    """An upscaler, by the name that requests use."""

    name: str
    scale: int | None = Field(description="How many times its network enlarges; null if it has none and only resamples")


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
    tasks: dict[str, AbilityOut] = Field(description="The tasks, by the names of their calls")
    abilities: dict[str, AbilityOut] = Field(description=f"What else not every model can do: {', '.join(FURTHER)}")
    controlnets: list[str] = Field(description="Its ControlNets, which a control's `net` may name")
    adapters: list[str] = Field(description="Its IP-Adapters, which `adapter` may name")
    refiners: list[str] = Field(description="The installed refiners, which `refiner` may name")
    loras: list[str] = Field(description="The LoRAs that fit it, which `loras` and tags may name")
    embeddings: list[str] = Field(description="The embeddings that fit it, whose words prompts may have")
    clip_skip: int = Field(description="The largest `clip_skip`; 1 leaves out no layer")
    defaults: DefaultsOut


class PreprocessorOut(BaseModel):
    """What makes a control map of an image."""

    name: str
    about: str = Field(description="What the map shows")


class CapabilitiesOut(BaseModel):
    """The server's current capabilities. ``model`` and ``defaults`` are null until the default model is installed."""

    version: str
    model: ModelOut | None = Field(description="The default model, for requests without `model`")
    defaults: DefaultsOut | None = Field(description="The default model's request defaults")
    models: list[ModelOut] = Field(description="All installed models, the default one included")
    loaded: list[str] = Field(description="The loaded models; jobs of other models wait until theirs is loaded")
    schedulers: list[str]
    preprocessors: list[PreprocessorOut]
    upscalers: list[UpscalerOut] = Field(description="The default one first")
    formats: list[str] = Field(description="The formats in which images are returned")
    sigmas: dict[str, list[str]] = Field(description="The sigma schedules that apply to each scheduler")
    rngs: list[str] = Field(description="Random number generators that a request may name")
    priorities: list[str]
    features: list[str]
    limits: LimitsOut


def _defaults(manifest: Manifest) -> DefaultsOut:
    values = defaults(manifest)
    return DefaultsOut(**{name: values[name] for name in DefaultsOut.model_fields})


def _ability(ability: Ability | None, manifest: Manifest) -> AbilityOut:
    needs = None if ability is None else ability.needs(manifest)
    return AbilityOut(available=needs is None, needs=needs)


def _fitting(addons: Mapping[str, InstalledLora] | Mapping[str, InstalledEmbedding], manifest: Manifest) -> list[str]:
    return [name for name, each in addons.items() if fits(each, manifest)]


def _model(
    name: str,
    manifests: Mapping[str, Manifest],
    loras: Mapping[str, InstalledLora],
    embeddings: Mapping[str, InstalledEmbedding],
) -> ModelOut:
    manifest = manifests[name]
    return ModelOut(
        name=name,
        family=manifest.family,
        prediction_type=manifest.prediction_type,
        attention=manifest.attention,
        precision=manifest.precision,
        sizes=[SizeOut(width=w, height=h) for w, h in manifest.sizes],
        source_sha256=manifest.source.sha256,
        inpainting=manifest.conditions.inpainting,
        tasks={task: _ability(OF_TASKS.get(task), manifest) for task in TASKS},
        abilities={name: _ability(ability, manifest) for name, ability in FURTHER.items()},
        controlnets=list(control_nets(manifest)),
        adapters=list(ip_adapters(manifest)),
        refiners=refiners_for(manifest, manifests),
        loras=_fitting(loras, manifest),
        embeddings=_fitting(embeddings, manifest),
        clip_skip=manifest.clip_skip,
        defaults=_defaults(manifest),
    )


@router.get("/capabilities", summary="Get the server's capabilities")
def capabilities(queue: Queue, models: Models, service: Generation) -> CapabilitiesOut:
    """Returns models with what each can do, schedulers, preprocessors, formats, features and limits."""
    installed = _installed(models, service.addons)
    default = next((m for m in installed if m.name == models.default), None)
    return CapabilitiesOut(
        version=__version__,
        model=default,
        defaults=None if default is None else default.defaults,
        models=installed,
        loaded=queue.loaded,
        schedulers=list(SCHEDULERS),
        preprocessors=[PreprocessorOut(name=each.name, about=each.about) for each in PREPROCESSORS.values()],
        upscalers=[
            UpscalerOut(name=name, scale=each.scale if each.tile else None)
            for name, each in service.upscalers().items()
        ],
        formats=list(FORMATS),
        sigmas={s.name: list(s.sigma_schedules) for s in SCHEDULERS.values()},
        rngs=list(RNGS),
        priorities=list(PRIORITIES),
        features=list(FEATURES),
        limits=LimitsOut(queue=queue.limits.max_queue),
    )


def _installed(models: InstalledModels, addons: Addons) -> list[ModelOut]:
    manifests = {model.name: model.manifest for model in models.all()}
    (loras, _), (embeddings, _) = addons.loras.all(), addons.embeddings.all()
    return [_model(name, manifests, loras, embeddings) for name in manifests]
