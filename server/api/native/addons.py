"""The native API's LoRAs and embeddings: list, upload and delete them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from converter.errors import AnemoneError
from server.api.dependencies import AllAddons, Answers, Models
from server.api.dialect import body_limit
from server.api.forms import media_type, wrong_type
from server.api.native import PREFIX
from server.api.native.errors import error
from server.errors import ApiError, quoted
from server.models.addons import LONGEST_NAME, AddonFiles, BundledAddon, NameNotAccepted, UnknownAddon
from server.models.installed import InstalledModels
from server.models.loras import InstalledEmbedding, InstalledLora
from server.pipeline.request import fits

router = APIRouter(prefix=PREFIX, tags=["addons"])

#: Bytes of an uploaded LoRA: those of SDXL with a rank of 256 have 1.7 GB, full differences up to 5 GB.
_LARGEST_LORA = 6 * 2**30
#: Bytes of an uploaded embedding: 75 vectors for two text encoders have 0.6 MB in fp32.
_LARGEST_EMBEDDING = 16 * 2**20
_TYPE = "application/octet-stream"
_T = TypeVar("_T")


class FewStepOut(BaseModel):
    """What a LoRA for few steps sets where a request does not."""

    steps: int
    guidance_scale: float
    scheduler: str


class _AddonOut(BaseModel):
    name: str
    url: str
    families: list[str] = Field(description="The model families that it fits")
    models: list[str] = Field(description="The installed models that it fits")
    sha256: str
    bytes: int


class LoraOut(_AddonOut):
    """A LoRA, by the name that requests use."""

    kinds: list[str] = Field(description="Of its layers, such as LoRA or LoHa")
    ranks: tuple[int, int] | None = Field(description="The least and the greatest; null where no layer has one")
    words: list[str] = Field(description="What it was trained with, to be used in prompts, as far as the file says")
    notes: list[str] = Field(description="What the file does not tell and was assumed")
    few_step: FewStepOut | None = Field(
        description="What it sets where a request does not; null if it is not for few steps"
    )


class EmbeddingOut(_AddonOut):
    """An embedding (textual inversion)."""

    words: list[str] = Field(description="What stands for it in a prompt, in any case")
    vectors: int = Field(description="Tokens that it takes in a prompt")


class LorasOut(BaseModel):
    """The LoRAs, by name."""

    loras: list[LoraOut]
    damaged: dict[str, str] = Field(description="The files that cannot be used, with the reason")


class EmbeddingsOut(BaseModel):
    """The embeddings, by name."""

    embeddings: list[EmbeddingOut]
    damaged: dict[str, str] = Field(description="The files that cannot be used, with the reason")


def _facts(kind: str, addon: InstalledLora | InstalledEmbedding, models: InstalledModels) -> dict[str, Any]:
    return {
        "name": addon.name,
        "url": f"{PREFIX}/{kind}/{quote(addon.name, safe='')}",
        "families": list(addon.families),
        "models": fitting_models(addon, models),
        "sha256": addon.sha256,
        "bytes": addon.bytes,
    }


def fitting_models(addon: InstalledLora | InstalledEmbedding, models: InstalledModels) -> list[str]:
    """Return the names of the installed models that a file fits."""
    return [model.name for model in models.all() if fits(addon, model.manifest)]


def _lora_out(lora: InstalledLora, models: InstalledModels) -> LoraOut:
    few = lora.few_step
    few_step = (
        None if few is None else FewStepOut(steps=few.steps, guidance_scale=few.guidance_scale, scheduler=few.scheduler)
    )
    return LoraOut(
        **_facts("loras", lora, models),
        few_step=few_step,
        kinds=list(lora.kinds),
        ranks=lora.ranks,
        words=list(lora.words),
        notes=list(lora.notes),
    )


def _embedding_out(embedding: InstalledEmbedding, models: InstalledModels) -> EmbeddingOut:
    facts = _facts("embeddings", embedding, models)
    return EmbeddingOut(**facts, words=list(embedding.words), vectors=embedding.vectors)


async def _written(path: Path, parts: AsyncIterator[bytes]) -> None:
    """Write a body to a file, part by part: a whole LoRA would fill the memory."""
    with await run_in_threadpool(path.open, "xb") as file:
        async for part in parts:
            await run_in_threadpool(file.write, part)


async def _uploaded(files: AddonFiles[_T], kind: str, name: str, request: Request) -> _T:
    """Return what a new file has, which the request's body is; raise ApiError if it is not accepted, and keep nothing."""
    if (sent := media_type(request)) != _TYPE:  # pages of other sites can send other types
        raise wrong_type(sent, _TYPE)
    with ExitStack() as upload:
        try:
            path = await run_in_threadpool(upload.enter_context, files.uploading(name))
            await _written(path, request.stream())
            return await run_in_threadpool(files.add, path)
        except FileExistsError as exists:
            message = f"there is a {kind} {quoted(name)}; delete it first, or give this one another name"
            raise ApiError(409, "name_taken", message, field="name", value=name) from exists
        except NameNotAccepted as wrong:
            message = f"name is {quoted(name)}; accepted: {wrong}"
            raise ApiError(422, "invalid_field", message, field="name", value=name, accepted=str(wrong)) from wrong
        except AnemoneError as wrong:
            raise ApiError(422, "invalid_file", str(wrong)) from wrong


def _deleted(files: AddonFiles[_T], kind: str, name: str) -> None:
    try:
        files.delete(name)
    except UnknownAddon as unknown:
        raise ApiError(404, f"no_such_{kind}", str(unknown)) from unknown
    except BundledAddon as bundled:
        raise ApiError(409, f"bundled_{kind}", str(bundled)) from bundled


def _upload_answers(kind: str) -> Answers:
    return {
        409: error(f"A {kind} has this name"),
        413: error("The file is too large"),
        415: error(f"The body's type is not {_TYPE}"),
        422: error(f"The name is not accepted, or the file is not a {kind} that can be used; the message says why"),
        507: error("The disk is full"),
    }


def _deletion_answers(kind: str) -> Answers:
    return {404: error(f"The {kind} does not exist"), 409: error(f"The {kind} comes with Anemone and stays")}


def _file(limit: int) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a route whose body is a file."""
    content = {_TYPE: {"schema": {"type": "string", "format": "binary"}}}
    return {**body_limit(limit), "requestBody": {"required": True, "content": content}}


Name = Annotated[
    str, Query(max_length=LONGEST_NAME, description="The name that requests use: the file's, without .safetensors")
]


@router.get("/loras", summary="List LoRAs")
def loras(addons: AllAddons, models: Models) -> LorasOut:
    """Returns the LoRAs with the models that they fit, and the files that cannot be used."""
    usable, damaged = addons.loras.all()
    return LorasOut(loras=[_lora_out(each, models) for each in usable.values()], damaged=damaged)


@router.post(
    "/loras",
    status_code=201,
    responses=_upload_answers("lora"),
    openapi_extra=_file(_LARGEST_LORA),
    summary="Upload a LoRA",
)
async def upload_lora(request: Request, name: Name, addons: AllAddons, models: Models, response: Response) -> LoraOut:
    """Takes a safetensors file as the body, reads it, and keeps it if it can be used."""
    lora = await _uploaded(addons.loras, "lora", name, request)
    out = await run_in_threadpool(_lora_out, lora, models)
    response.headers["Location"] = out.url
    return out


@router.delete("/loras/{name}", status_code=204, responses=_deletion_answers("LoRA"), summary="Delete a LoRA")
def delete_lora(name: str, addons: AllAddons) -> None:
    """Deletes the LoRA's file. Jobs that wait for it fail, unless the model with it is still in the cache."""
    _deleted(addons.loras, "lora", name)


@router.get("/embeddings", summary="List embeddings")
def embeddings(addons: AllAddons, models: Models) -> EmbeddingsOut:
    """Returns the embeddings with the words that stand for them, and the files that cannot be used."""
    usable, damaged = addons.embeddings.all()
    return EmbeddingsOut(embeddings=[_embedding_out(each, models) for each in usable.values()], damaged=damaged)


@router.post(
    "/embeddings",
    status_code=201,
    responses=_upload_answers("embedding"),
    openapi_extra=_file(_LARGEST_EMBEDDING),
    summary="Upload an embedding",
)
async def upload_embedding(
    request: Request, name: Name, addons: AllAddons, models: Models, response: Response
) -> EmbeddingOut:
    """Takes a safetensors file as the body, reads it, and keeps it if it can be used."""
    embedding = await _uploaded(addons.embeddings, "embedding", name, request)
    out = await run_in_threadpool(_embedding_out, embedding, models)
    response.headers["Location"] = out.url
    return out


@router.delete(
    "/embeddings/{name}", status_code=204, responses=_deletion_answers("embedding"), summary="Delete an embedding"
)
def delete_embedding(name: str, addons: AllAddons) -> None:
    """Deletes the embedding's file."""
    _deleted(addons.embeddings, "embedding", name)
