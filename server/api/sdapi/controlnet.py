"""The calls of AUTOMATIC1111's ControlNet extension: its lists, and the maps that its preprocessors make."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, ValidationError

from server.api.answers import base64_of
from server.api.dependencies import Generation, Memory, Models
from server.api.errors import from_validation, require
from server.api.image_json import MOST_IMAGES
from server.api.sdapi.bodies import Body, Image, Name, read_body, route_of
from server.api.sdapi.errors import BAD_BODY
from server.api.sdapi.names import in_their_keys, their_error
from server.api.sdapi.scripts import base64_image, preprocessing
from server.api.sdapi.state import Current
from server.models.installed import UnknownModel
from server.pipeline.abilities import control_nets
from server.pipeline.limits import FIRST_ONLY, Items, Real, Within
from server.pipeline.preprocessors.edges import HIGH_THRESHOLD, LOW_THRESHOLD
from server.pipeline.preprocessors.registry import NONE, PREPROCESSORS
from server.pipeline.request import RequestError, field_named
from server.pipeline.request.controls import MAP_SIDE, THRESHOLD, MapQuestion, check_preprocessing

router = APIRouter(prefix="/controlnet", tags=["automatic1111"])

#: The version of the extension whose units are read (1.1), as it tells it.
_VERSION = 3
#: The keys of our fields.
_KEYS = {"low_threshold": "controlnet_threshold_a", "high_threshold": "controlnet_threshold_b"}
_UNITS = field_named("controls").find(Items)
assert _UNITS is not None
_MOST_UNITS = _UNITS.most


class VersionOut(BaseModel):
    """The version of the extension's API."""

    version: int = _VERSION


class NetsOut(BaseModel):
    """ControlNets by name."""

    model_list: list[str]


class SliderOut(BaseModel):
    """A number that a preprocessor takes."""

    name: str
    value: int = Field(description="The usual one")
    min: int
    max: int
    step: int = 1


class PreprocessorDetail(BaseModel):
    """The settings of a unit with a preprocessor."""

    model_free: bool = Field(False, description="Whether it works without a ControlNet; none does")
    sliders: list[SliderOut] = Field(description="The resolution, which is not used, and thresholds a and b")


class PreprocessorsOut(BaseModel):
    """Preprocessors by the extension's names."""

    module_list: list[str]
    module_detail: dict[str, PreprocessorDetail]


class ControlTypeOut(BaseModel):
    """The preprocessors and ControlNets that go together."""

    module_list: list[str]
    model_list: list[str] = Field(description="None first, as clients expect it")
    default_option: str = NONE
    default_model: str = "None"


class ControlTypesOut(BaseModel):
    """Types of control; the only one has everything."""

    control_types: dict[str, ControlTypeOut]


class SettingsOut(BaseModel):
    """The number of units of a request, by its newer and its older name."""

    control_net_unit_count: int = _MOST_UNITS
    control_net_max_models_num: int = _MOST_UNITS


def _slider(name: str, value: int, limits: Within) -> SliderOut:
    return SliderOut(name=name, value=value, min=int(limits.low), max=int(limits.high))


#: Maps are as large as their images; clients take the first slider for the resolution wherever there are any.
_SLIDERS = [
    _slider("Resolution", 512, MAP_SIDE),
    _slider("Low Threshold", LOW_THRESHOLD, THRESHOLD),
    _slider("High Threshold", HIGH_THRESHOLD, THRESHOLD),
]
_TITLES = [each.title for each in PREPROCESSORS.values()]
_DETAILS = {
    each.title: PreprocessorDetail(sliders=_SLIDERS if each.thresholds else []) for each in PREPROCESSORS.values()
}


@router.get("/version", summary="Get the version of the ControlNet extension")
async def version() -> VersionOut:
    """Returns the version of the extension whose units are read."""
    return VersionOut()


def _nets(models: Models, current: Current) -> list[str]:
    try:
        return list(control_nets(models.manifest(current or "")))
    except UnknownModel:  # not installed yet
        return []


Nets = Annotated[list[str], Depends(_nets)]


@router.get("/model_list", summary="List the ControlNets")
async def model_list(nets: Nets) -> NetsOut:
    """Returns the ControlNets of the model of requests that name none: each model has its own."""
    return NetsOut(model_list=nets)


@router.get("/module_list", summary="List the preprocessors")
async def module_list() -> PreprocessorsOut:
    """Returns the preprocessors by the extension's names, and the numbers that each takes."""
    return PreprocessorsOut(module_list=_TITLES, module_detail=_DETAILS)


@router.get("/control_types", summary="List the types of control")
async def control_types(nets: Nets) -> ControlTypesOut:
    """Returns the only one, All."""
    return ControlTypesOut(control_types={"All": ControlTypeOut(module_list=_TITLES, model_list=["None", *nets])})


@router.get("/settings", summary="Get the number of units")
async def settings() -> SettingsOut:
    """Returns how many units a request may have."""
    return SettingsOut()


Images = Annotated[list[Image], FIRST_ONLY, Field(max_length=MOST_IMAGES)]


class DetectBody(Body):
    """Images to make control maps of."""

    controlnet_module: Name | None = Field(None, description="The preprocessor; left out: none")
    controlnet_input_images: Images | None = Field(None, description="The images, as base64")
    controlnet_images: Images | None = Field(None, description="The same by the name that the webuiapi package sends")
    controlnet_threshold_a: Real | None = Field(None, description="Of canny: the low threshold; -1: the usual one")
    controlnet_threshold_b: Real | None = Field(None, description="Of canny: the high threshold; -1: the usual one")


class DetectOut(BaseModel):
    """Control maps."""

    images: list[str] = Field(description="PNGs as base64")
    info: str = Field(description="Notes on the images, or Success")


@router.post(
    "/detect",
    responses=BAD_BODY,
    openapi_extra=route_of(DetectBody, images=True),
    summary="Make control maps of images",
)
async def detect(request: Request, service: Generation, memory: Memory) -> DetectOut:
    """Returns the maps as large as their images, up to 2048 pixels a side."""
    maps: list[str] = []
    notes: list[str] = []
    async with memory.reserve(request.scope):
        body = await read_body(request, DetectBody)
        key = "controlnet_images" if body.controlnet_images else "controlnet_input_images"
        images = getattr(body, key)
        if not images:
            raise RequestError(key, images, "a list of images, as base64")
        question = _question(body)
        for number, sent in enumerate(images):
            place = f"{key}.{number}"
            told = in_their_keys(await service.control_map(base64_image(sent, place), question), keys={"image": place})
            made = require(told)
            maps.append(await base64_of(made.value))
            notes += made.notes
    return DetectOut(images=maps, info="; ".join(notes) or "Success")


def _question(body: DetectBody) -> MapQuestion:
    low, high = body.controlnet_threshold_a, body.controlnet_threshold_b
    fields = preprocessing(body.controlnet_module, "controlnet_module", low, high)
    try:
        question = MapQuestion(image="image", **fields)
        check_preprocessing(question)
    except RequestError as error:
        raise their_error(error, keys=_KEYS) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = _KEYS.get(str(first["loc"][0]), str(first["loc"][0]))
        raise from_validation([{**first, "loc": (key,)}]) from error
    return question
