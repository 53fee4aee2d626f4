"""The calls of AUTOMATIC1111's ControlNet extension: its lists, and the maps that its preprocessors make."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, ValidationError

from server.api.dependencies import Generation, Memory, Models
from server.api.errors import from_validation, require
from server.api.sdapi.answer import base64_of
from server.api.sdapi.bodies import Body, Image, Name, read_body, route_of
from server.api.sdapi.errors import BAD_BODY
from server.api.sdapi.names import in_their_keys, their_error
from server.api.sdapi.scripts import base64_image, preprocessing
from server.api.sdapi.state import Remembered
from server.models.installed import UnknownModel
from server.pipeline.abilities import control_nets
from server.pipeline.limits import FIRST_ONLY, Real
from server.pipeline.preprocessors.registry import PREPROCESSORS
from server.pipeline.request import RequestError
from server.pipeline.request.controls import MapQuestion, check_preprocessing

router = APIRouter(prefix="/controlnet", tags=["automatic1111"])

#: The version of the extension whose units are read (1.1), as it tells it.
_VERSION = 3
#: Images of a call that makes maps.
_MOST = 16
#: The keys of our fields.
_KEYS = {"low_threshold": "controlnet_threshold_a", "high_threshold": "controlnet_threshold_b"}


class VersionOut(BaseModel):
    """The version of the extension's API."""

    version: int = _VERSION


class NetsOut(BaseModel):
    """ControlNets by name."""

    model_list: list[str]


class PreprocessorsOut(BaseModel):
    """Preprocessors by the extension's names."""

    module_list: list[str]


@router.get("/version", summary="Get the version of the ControlNet extension")
async def version() -> VersionOut:
    """Returns the version of the extension whose units are read."""
    return VersionOut()


@router.get("/model_list", summary="List the ControlNets")
def model_list(models: Models, state: Remembered) -> NetsOut:
    """Returns the ControlNets of the model of requests that name none: each model has its own."""
    try:
        return NetsOut(model_list=list(control_nets(models.manifest(state.model or models.default or ""))))
    except UnknownModel:  # not installed yet
        return NetsOut(model_list=[])


@router.get("/module_list", summary="List the preprocessors")
async def module_list() -> PreprocessorsOut:
    """Returns the preprocessors by the extension's names."""
    return PreprocessorsOut(module_list=[each.title for each in PREPROCESSORS.values()])


class DetectBody(Body):
    """Images to make control maps of."""

    controlnet_module: Name | None = Field(None, description="The preprocessor; left out: none")
    controlnet_images: Annotated[list[Image], FIRST_ONLY, Field(max_length=_MOST)] | None = Field(
        None, description="The images, as base64"
    )
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
        if not body.controlnet_images:
            raise RequestError("controlnet_images", body.controlnet_images, "a list of images, as base64")
        question = _question(body)
        for number, sent in enumerate(body.controlnet_images):
            place = f"controlnet_images.{number}"
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
