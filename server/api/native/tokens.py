"""The native API's count of a prompt's tokens, for forms that show how much of it a model takes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from converter.errors import ManifestError
from converter.folder import ModelFolder
from converter.manifest import Manifest
from converter.networks.registry import text_encoders
from server.api.dependencies import Answers, Generation, Models
from server.api.errors import require
from server.api.forms import json_only
from server.api.native import PREFIX
from server.api.native.errors import error
from server.api.request_body import RequestBody
from server.errors import ApiError
from server.models.installed import UnknownModel
from server.models.paths import told
from server.pipeline.limits import Characters, OneOf
from server.pipeline.prompts.counting import TokenCounter
from server.pipeline.prompts.editing import Walk
from server.pipeline.prompts.embedded import EmbeddedWords, merged_words
from server.pipeline.prompts.reading import read_prompt
from server.pipeline.prompts.tags import without_tags
from server.pipeline.request import KnownEmbedding, RequestError, fits
from server.pipeline.request.conditions import A1111, NAME, SYNTAXES, Text

log = logging.getLogger("anemone.api")

router = APIRouter(prefix=PREFIX, tags=["native"])

_ANSWERS: Answers = {
    400: error("The body is not JSON"),
    415: error("The body's type is not application/json"),
    422: error("A field is not accepted; the message names it"),
    404: error("The model was deleted meanwhile"),
    503: error("The model is not installed yet, or is damaged"),
}


class TokensIn(RequestBody):
    """A prompt whose tokens to count."""

    prompt: Text = Field(description="The prompt, or a negative one")
    model: Annotated[str, Characters(NAME)] | None = Field(
        None, description="An installed model; left out: the default one"
    )
    prompt_syntax: Annotated[str, OneOf(SYNTAXES)] = Field(A1111, description="As of a request for an image")


class TokensOut(BaseModel):
    """A prompt's tokens. Of one that changes from step to step, or joins several with AND, it is the longest text."""

    tokens: int = Field(description="Without beginnings, ends and padding")
    limit: int = Field(description="The most tokens that the model takes without averaging chunks")
    chunks: int = Field(description="Chunks that the prompt is divided into; the text encoder reads one at a time")


async def _counter(request: Request) -> TokenCounter:
    counter: TokenCounter = request.app.state.token_counter
    return counter


def _embedded(manifest: Manifest, known: Iterable[KnownEmbedding]) -> Sequence[EmbeddedWords]:
    """Return the words that stand for embeddings in a model's prompts: those merged into it, or those that can be."""
    if manifest.merged is not None:
        return merged_words(manifest, {})(next(iter(text_encoders(manifest.networks))))
    return [EmbeddedWords(each.words, (0,) * each.vectors) for each in known if fits(each, manifest)]


@router.post("/tokens", responses=_ANSWERS, dependencies=[Depends(json_only)], summary="Count a prompt's tokens")
async def tokens(
    body: TokensIn, service: Generation, models: Models, counter: Annotated[TokenCounter, Depends(_counter)]
) -> TokensOut:
    """Counts with the model's own tokenizer, without running anything."""
    model = require(await service.bind(body.model))
    walk, with_syntax = Walk(model.manifest.defaults.steps), body.prompt_syntax == A1111
    text = without_tags(body.prompt).prompt if with_syntax else body.prompt
    prompt = read_prompt(text, with_syntax=with_syntax)
    if (excess := prompt.excess(walk)) is not None:
        raise RequestError("prompt", body.prompt, f"{excess}; or prompt_syntax plain")

    def counted() -> TokensOut:
        folder = ModelFolder(models.folder(model.name), model.manifest)
        embedded = _embedded(model.manifest, service.known_addons().embeddings.values())
        count = counter.count(folder, prompt, walk, with_syntax=with_syntax, embedded=embedded)
        return TokensOut(tokens=count.tokens, limit=count.limit, chunks=count.chunks)

    try:
        return await run_in_threadpool(counted)
    except UnknownModel as gone:
        raise ApiError(404, "no_such_model", f"the model {model.name} has just been deleted") from gone
    except (ManifestError, FileNotFoundError) as damaged:
        raise ApiError(503, "model_damaged", told(str(damaged), (models.root,), log)) from damaged
