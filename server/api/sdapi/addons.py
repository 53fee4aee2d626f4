"""The LoRAs and embeddings as AUTOMATIC1111's clients list them."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from converter.errors import AnemoneError
from server.api.dependencies import AllAddons, Models
from server.api.sdapi import PREFIX
from server.api.sdapi.state import Current
from server.errors import encodable
from server.models.installed import UnknownModel
from server.models.loras import InstalledEmbedding
from server.pipeline.request import fits

router = APIRouter(prefix=PREFIX, tags=["automatic1111"])

#: What a value of a LoRA's metadata is that A1111 parses, and how deep an object there may be: trainers' have three levels.
_OPENING, _DEEPEST = "{", 8


class LoraItem(BaseModel):
    """A LoRA that can be used."""

    name: str = Field(description="What tags name it by")
    alias: str = Field(description="The name again")
    path: str = Field(description="Its file in the folder of LoRAs")
    metadata: dict[str, Any] = Field(description="What its trainer wrote into the file")


class EmbeddingItem(BaseModel):
    """An embedding. What only pickles say is null."""

    step: int | None = None
    sd_checkpoint: str | None = None
    sd_checkpoint_name: str | None = None
    shape: int = Field(description="Elements of a vector, of all text encoders together")
    vectors: int = Field(description="Tokens that it takes in a prompt")


class EmbeddingsOut(BaseModel):
    """The embeddings by name."""

    loaded: dict[str, EmbeddingItem] = Field(description="Those that fit the model of requests that name none")
    skipped: dict[str, EmbeddingItem] = Field(description="The others")


def _is_deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)


def _value(text: str) -> Any:
    """Return a value of metadata as A1111 does, which parses objects; what no answer can hold stays a text."""
    if text.startswith(_OPENING):
        try:
            value = json.loads(text)
            if not _is_deeper(value, _DEEPEST):
                json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
                return value
        except (ValueError, RecursionError):
            pass
    return encodable(text)


@router.get("/loras", response_model=list[LoraItem], summary="List the LoRAs")
def loras(addons: AllAddons) -> JSONResponse:
    """Returns the LoRAs that can be used, of all models."""
    items = []
    for name in addons.loras.all()[0]:
        try:
            inside = addons.loras.path_inside(name)
            metadata = {encodable(key): _value(text) for key, text in addons.lora_metadata(name).items()}
        except AnemoneError:  # deleted or replaced meanwhile
            continue
        items.append(LoraItem(name=name, alias=name, path=inside, metadata=metadata).model_dump())
    return JSONResponse(items)


def _item(embedding: InstalledEmbedding) -> EmbeddingItem:
    return EmbeddingItem(shape=embedding.width, vectors=embedding.vectors)


@router.get("/embeddings", summary="List the embeddings")
def embeddings(addons: AllAddons, models: Models, current: Current) -> EmbeddingsOut:
    """Returns the embeddings, divided into those that fit the model of requests that name none and the others."""
    usable, _ = addons.embeddings.all()
    try:
        manifest = None if current is None else models.get(current).manifest
    except UnknownModel:  # not installed yet
        manifest = None
    fitting = {name for name, each in usable.items() if manifest is not None and fits(each, manifest)}
    return EmbeddingsOut(
        loaded={name: _item(each) for name, each in usable.items() if name in fitting},
        skipped={name: _item(each) for name, each in usable.items() if name not in fitting},
    )
