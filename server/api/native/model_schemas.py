"""The bodies and answers of the models' routes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from converter.conversion.plan import LARGEST_SIDE
from converter.mil import TargetName
from converter.networks.layers import Attention
from server.api.native.schemas import SizeOut, Whole
from server.models.conversion import ConversionStatus
from server.models.orders import NAME

_HUB = "owner/name on the Hugging Face hub, also @revision"
#: The plan judges what a model can do; this only bounds what is kept and hashed.
_Side = Annotated[Whole, Field(ge=8, le=LARGEST_SIDE)]
PredictionType = Literal["epsilon", "v_prediction", "sample"]


class SizeIn(BaseModel):
    """A picture size in pixels."""

    model_config = ConfigDict(extra="forbid")

    width: _Side
    height: _Side


class ConversionIn(BaseModel):
    """What to convert. What is left out is as usual."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"source": "stabilityai/sd-turbo", "sizes": [{"width": 512, "height": 512}]}],
        },
    )

    source: str = Field(
        max_length=500,
        description=f"{_HUB} or /file.safetensors; or the name of a file or folder that the server's owner has put into "
        "`checkpoints` in its data folder (see the list of models). Other paths are for `anemone convert` on the machine",
    )
    name: str | None = Field(
        None, pattern=f"^{NAME.pattern}$", description="What to call the model; the source's own name if left out"
    )
    sizes: list[SizeIn] | None = Field(
        None, min_length=1, max_length=16, description="Picture sizes, the default first; as trained if left out"
    )
    attention: Attention = Field(
        "split_einsum",
        description="split_einsum for the Neural Engine, split_einsum_v2 the same for large images, original for GPUs",
    )
    batches: list[Literal[1, 2]] | None = Field(
        None, min_length=1, max_length=2, description="Rows the UNet takes at once: 2 for guidance, 1 without"
    )
    tokens: list[Literal[77, 154, 231]] | None = Field(
        None, min_length=1, max_length=3, description="Prompt lengths the UNet takes"
    )
    prompt_once: bool = Field(False, description="Project the prompt once a picture, in a package of its own")
    target: TargetName = Field("macOS13", description="The oldest macOS it is for")
    functions: bool = Field(False, description="Sizes as functions of one package; needs macOS15")
    prediction_type: PredictionType | None = Field(None, description="Where the source says it wrong")
    vae: str | None = Field(None, max_length=200, description=f"An autoencoder in place of its own: {_HUB}")
    preview: str | None = Field(None, max_length=200, description=f"A tiny autoencoder (TAESD) for previews: {_HUB}")
    safety_checker: str | None = Field(None, max_length=200, description=f"A safety checker: {_HUB}")
    controlnets: list[Annotated[str, Field(max_length=200)]] = Field(
        [], max_length=8, description=f"ControlNets: each {_HUB}"
    )


class MemoryOut(BaseModel):
    """Bytes of memory that its weights take; a picture's working memory comes on top."""

    together: int = Field(description="With all networks loaded")
    in_turn: int = Field(description="With one network at a time")
    fit: Literal["together", "in_turn", "too_large"] = Field(
        description="How it is held within what models may take (memory_budget_gb)"
    )


class InstalledModelOut(BaseModel):
    """An installed model."""

    name: str = Field(description="What requests call it")
    url: str
    default: bool = Field(description="Whether requests that name no model mean this one")
    loaded: bool = Field(description="Whether the worker holds it now")
    jobs: int = Field(description="Jobs that wait for it or are made with it")
    manifest_name: str = Field(description="What its conversion called it; requests may use that too")
    family: str
    prediction_type: str
    attention: str
    precision: str
    sizes: list[SizeOut]
    networks: list[str]
    source: str = Field(description="Where it was made from")
    source_sha256: str
    disk_bytes: int = Field(description="On disk; files that packages share are counted once")
    memory: MemoryOut


class ConversionProgressOut(BaseModel):
    """How far a conversion is."""

    stage: Literal["downloading", "converting", "verifying"]
    item: str = Field(description="The file or network it is at")
    done: int = Field(description="Bytes of weights")
    total: int
    fraction: float | None = Field(description="done / total of this stage")
    eta_s: float | None = Field(description="Seconds to go; null where that is not known")


class ConversionErrorOut(BaseModel):
    """Why a conversion failed."""

    code: str
    message: str


class ConversionOut(BaseModel):
    """A conversion as it stands."""

    id: str
    url: str
    status: ConversionStatus
    model: str = Field(description="What its model is or will be called")
    source: str = Field(description="An address on the hub, or the name of what lies in `checkpoints`")
    options: dict[str, Any] = Field(description="What was asked for beside the source")
    progress: ConversionProgressOut | None
    error: ConversionErrorOut | None
    created: float = Field(description="Seconds since 1970")
    started: float | None
    finished: float | None
    attempts: int


class ModelsOut(BaseModel):
    """The models there are, those on their way, and what could be converted."""

    default: str | None
    models: list[InstalledModelOut]
    conversions: list[ConversionOut] = Field(description="Those that are not over")
    checkpoints: list[str] = Field(description="What lies in `checkpoints` in the data folder")


class ConversionsOut(BaseModel):
    """Every conversion that is remembered, the newest first."""

    conversions: list[ConversionOut]
