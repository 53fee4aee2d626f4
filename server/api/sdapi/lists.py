"""The lists that clients fill their menus with, and the calls that look for what is new in them."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from server.api.dependencies import Generation, Models
from server.api.sdapi import PREFIX
from server.api.sdapi.checkpoints import checkpoints
from server.api.sdapi.scripts import CONTROLNET
from server.api.sdapi.upscalers import NONE
from server.pipeline.schedulers import SCHEDULERS, SIGMA_SCHEDULES
from server.pipeline.upscaling.names import LATENT, a1111_name

router = APIRouter(prefix=PREFIX, tags=["automatic1111"])


class CheckpointItem(BaseModel):
    """An installed model."""

    title: str = Field(description="The name with the short hash", examples=["anemone-demo [0123456789]"])
    model_name: str
    hash: str = Field(description="The first ten digits of sha256")
    sha256: str = Field(description="Of the weights of the model's source")
    filename: str = Field(description="The name again: paths are not told")
    config: str | None = None


class SamplerItem(BaseModel):
    """A sampler by AUTOMATIC1111's name."""

    name: str
    aliases: list[str]
    options: dict[str, str]


class SchedulerItem(BaseModel):
    """A schedule type."""

    name: str
    label: str
    aliases: list[str]
    default_rho: float = -1.0
    need_inner_model: bool = False


class UpscalerItem(BaseModel):
    """An upscaler; the first is None."""

    name: str
    model_name: str | None = None
    model_path: str | None = None
    model_url: str | None = None
    scale: float | None = None


class NamedItem(BaseModel):
    """Something with a name."""

    name: str


class ScriptsOut(BaseModel):
    """The scripts that there are."""

    txt2img: list[str]
    img2img: list[str]


@router.get("/sd-models", summary="List the models")
def sd_models(models: Models) -> list[CheckpointItem]:
    """Returns the installed models, the default one first."""
    return [
        CheckpointItem(title=each.title, model_name=each.name, hash=each.hash, sha256=each.sha256, filename=each.name)
        for each in checkpoints(models)
    ]


@router.get("/samplers", summary="List the samplers")
async def samplers() -> list[SamplerItem]:
    """Returns the samplers by AUTOMATIC1111's names; names joined with a schedule type work too."""
    return [SamplerItem(name=s.title, aliases=[s.name, *s.aliases], options={}) for s in SCHEDULERS.values()]


@router.get("/schedulers", summary="List the schedule types")
async def schedulers() -> list[SchedulerItem]:
    """Returns the schedule types."""
    return [SchedulerItem(name=s.name, label=s.title, aliases=list(s.aliases)) for s in SIGMA_SCHEDULES.values()]


@router.get("/upscalers", summary="List the upscalers")
def upscalers(service: Generation) -> list[UpscalerItem]:
    """Returns the upscalers, None first, as clients expect it."""
    found = [
        UpscalerItem(name=a1111_name(name), model_name=name if each.tile else None, scale=float(each.scale))
        for name, each in service.upscalers().items()
    ]
    return [UpscalerItem(name=NONE, scale=4.0), *found]


@router.get("/latent-upscale-modes", summary="List the ways to enlarge latents")
async def latent_upscale_modes() -> list[NamedItem]:
    """Returns the only one."""
    return [NamedItem(name=a1111_name(LATENT))]


@router.get("/scripts", summary="List the scripts")
async def scripts() -> ScriptsOut:
    """Returns the only one, whose units `alwayson_scripts` may have."""
    return ScriptsOut(txt2img=[CONTROLNET.lower()], img2img=[CONTROLNET.lower()])


async def _nothing() -> list[NamedItem]:
    return []


#: What AUTOMATIC1111 and Forge list and this server has none of; clients want a list all the same.
_EMPTY = (
    "sd-vae", "sd-modules", "hypernetworks", "face-restorers", "realesrgan-models", "prompt-styles", "script-info",
    "extensions",
)  # fmt: skip
for _name in _EMPTY:
    router.add_api_route(
        f"/{_name}",
        _nothing,
        name=_name,
        summary=f"List the {_name}",
        description="Returns an empty list: this server has nothing of the kind.",
    )


async def _refreshed() -> None:
    pass


#: What clients have looked for again before they list it.
for _name in ("refresh-checkpoints", "refresh-loras", "refresh-vae", "refresh-embeddings"):
    router.add_api_route(
        f"/{_name}",
        _refreshed,
        methods=["POST"],
        name=_name,
        summary=f"Look for new {_name.removeprefix('refresh-')}",
        description="Does nothing: new files are found at once. Answers `null`.",
    )
