"""Request and response bodies of the model and conversion routes."""

from __future__ import annotations

from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from converter.options import DEFAULT_OPTIONS, LARGEST_SIDE, OPTIONS, SMALLEST_SIDE, NetworkSource, Option, Size
from server.api.native.schemas import SizeOut
from server.api.request_body import RequestBody
from server.events import Status
from server.models.conversion_request import NAME
from server.pipeline.limits import FIRST_ONLY, NOT_BOOLEAN

_HUB = "owner/name on the Hugging Face hub, also @revision"
#: Every supported family has 8 pixels a latent. A wrong side is refused before a download of gigabytes; the conversion's plan
#: checks what the model supports.
_Side = Annotated[int, Field(ge=SMALLEST_SIDE, le=LARGEST_SIDE, multiple_of=8), NOT_BOOLEAN]


class SizeIn(RequestBody):
    """An image size in pixels."""

    width: _Side
    height: _Side


def _option_field(name: str, option: Option) -> tuple[Any, Any]:
    """Return the API's type and field for an option of `ConvertOptions`."""
    value: Any = SizeIn if option.value is Size else option.value
    if option.value is not bool:
        value = Annotated[value, NOT_BOOLEAN]
    default, about = getattr(DEFAULT_OPTIONS, name), option.about
    if option.value is NetworkSource:
        about = f"{about}: {_HUB}"
    if option.most is not None:
        least = 1 if default is None else None
        value = Annotated[GenericAlias(list, (value,)), FIRST_ONLY, Field(min_length=least, max_length=option.most)]
        default = default if default is None else list(default)
    return value | None if default is None else value, Field(default, description=about)


if TYPE_CHECKING:
    _OptionsIn = RequestBody
else:
    _OptionsIn = create_model(
        "OptionsIn",
        __base__=RequestBody,
        **{name: _option_field(name, option) for name, option in OPTIONS.items() if option.in_api},
    )


class ConversionIn(_OptionsIn):
    """A conversion request. Omitted fields take their defaults."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"source": "stabilityai/sd-turbo", "sizes": [{"width": 512, "height": 512}]}]}
    )

    source: str = Field(
        max_length=500,
        description=f"{_HUB} or /file.safetensors; or the name of a file or folder that the server's owner has put into "
        "`checkpoints` in its data folder (see the list of models). For other paths, use `anemone convert` on the machine",
    )
    name: str | None = Field(
        None,
        max_length=255,
        json_schema_extra={"pattern": f"^{NAME.pattern}$"},
        description="The model's name; by default the source's own name",
    )


class MemoryOut(BaseModel):
    """Bytes of memory that the model's weights need; an image needs working memory in addition."""

    together: int = Field(description="With all networks loaded")
    in_turn: int = Field(description="With one network at a time")
    fit: Literal["together", "in_turn", "too_large"] = Field(
        description="How its networks fit into the memory that models may use (memory_budget_gb)"
    )


class InstalledModelOut(BaseModel):
    """An installed model."""

    name: str = Field(description="Its name in requests")
    url: str
    default: bool = Field(description="Whether requests without `model` use this model")
    loaded: bool = Field(description="Whether it is loaded now")
    jobs: int = Field(description="Queued and running jobs of this model")
    manifest_name: str = Field(description="Its name in its manifest; requests may use this name too")
    family: str
    prediction_type: str
    attention: str
    precision: str
    sizes: list[SizeOut]
    networks: list[str]
    source: str = Field(description="The checkpoint it was converted from")
    source_sha256: str
    disk_bytes: int = Field(description="Size on disk; files that packages share are counted once")
    memory: MemoryOut


class ConversionProgressOut(BaseModel):
    """A conversion's progress."""

    stage: Literal["downloading", "converting", "verifying"]
    item: str = Field(description="The current file or network")
    done: int = Field(description="Bytes of weights")
    total: int
    fraction: float | None = Field(description="done / total of this stage")
    eta_s: float | None = Field(description="Remaining seconds; null if unknown")


class ConversionErrorOut(BaseModel):
    """The reason why a conversion failed."""

    code: str
    message: str


class ConversionOut(BaseModel):
    """A conversion's current state."""

    id: str
    url: str
    status: Status
    model: str = Field(description="The name of the model that it makes")
    source: str = Field(description="A hub address, or a name in `checkpoints`")
    options: dict[str, Any] = Field(description="Options that differ from their defaults")
    progress: ConversionProgressOut | None
    error: ConversionErrorOut | None
    created: float = Field(description="Seconds since 1970")
    started: float | None
    finished: float | None
    attempts: int


class ModelsOut(BaseModel):
    """The installed models, running and queued conversions, and checkpoints to convert."""

    default: str | None
    models: list[InstalledModelOut]
    conversions: list[ConversionOut] = Field(description="Queued and running ones")
    checkpoints: list[str] = Field(description="Files and folders in the data folder's `checkpoints`")


class ConversionsOut(BaseModel):
    """All conversions, the newest first."""

    conversions: list[ConversionOut]
