"""The lists of AUTOMATIC1111's ControlNet extension."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from server.api.dependencies import Models
from server.api.sdapi.state import Remembered
from server.models.installed import UnknownModel
from server.pipeline.abilities import control_nets
from server.pipeline.preprocessors.registry import PREPROCESSORS

router = APIRouter(prefix="/controlnet", tags=["automatic1111"])

#: The version of the extension whose units are read (1.1), as it tells it.
_VERSION = 3


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
