"""Divides a prompt's tokens into chunks of the text encoder's length, with a weight for each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from converter.errors import ManifestError
from converter.folder import ModelFolder
from converter.networks.registry import UNET
from server.pipeline.prompts.emphasis import Piece, sections_of

if TYPE_CHECKING:
    from server.pipeline.prompts.tokenizer import PromptTokenizer

#: A chunk that is full ends after its last comma if that is among its last tokens, so that a phrase stays together
#: (AUTOMATIC1111's comma_padding_backtrack).
BACKTRACK = 20


@dataclass(frozen=True)
class WeightedToken:
    """A token's number in the vocabulary, and how much it counts.

    together: how many tokens, this one first, stay in one chunk; 0 for the others of them.
    """

    number: int
    weight: float = 1.0
    together: int = 1


Chunk = tuple[WeightedToken, ...]
#: A text encoder's name -> the chunks of a text by its tokenizer.
Chunks: TypeAlias = Mapping[str, list[Chunk]]


def divide(sections: Sequence[Sequence[WeightedToken]], size: int, comma: int | None) -> list[Chunk]:
    """Return the sections' tokens in chunks of at most ``size``; each section begins a chunk, and there is at least one.

    ``comma`` is the number of the comma's token; None divides without regard to commas. An empty last section has no chunk.
    """
    chunks: list[Chunk] = []
    chunk: list[WeightedToken] = []
    for number, section in enumerate(sections):
        if number:
            chunks.append(tuple(chunk))
            chunk = []
        after_comma = 0  # the place after the chunk's last comma; 0 without one
        for token in section:
            if token.number == comma:
                after_comma = len(chunk) + 1
            elif len(chunk) == size and after_comma and size - after_comma < BACKTRACK:
                chunks.append(tuple(chunk[:after_comma]))
                chunk, after_comma = chunk[after_comma:], 0
            # An embedding that does not fit the rest of a chunk begins the next one, as in A1111.
            if len(chunk) == size or (chunk and len(chunk) + token.together > size):
                chunks.append(tuple(chunk))
                chunk, after_comma = [], 0
            chunk.append(token)
    return [*chunks, tuple(chunk)] if chunk or not chunks else chunks


def text_chunks(tokenizers: Mapping[str, PromptTokenizer], text: str, *, with_syntax: bool) -> Chunks:
    """Return the text in chunks, at least one; of two text encoders the same number, since they read the same text."""
    sections = sections_of(text) if with_syntax else ((Piece(text),),)
    divided = {}
    for name, tokenizer in tokenizers.items():
        tokens = [
            [
                WeightedToken(number, piece.weight, 0 if place else len(word))
                for piece in section
                for word in tokenizer.words(piece.text)
                for place, number in enumerate(word)
            ]
            for section in sections
        ]
        divided[name] = divide(tokens, tokenizer.room, tokenizer.comma if with_syntax else None)
    most = chunk_count(divided)
    return {name: chunks + [()] * (most - len(chunks)) for name, chunks in divided.items()}


def chunk_count(chunks: Chunks) -> int:
    """Return how many chunks a text has."""
    return max(map(len, chunks.values()))


def unet_places(folder: ModelFolder) -> list[int]:
    """Return how many chunks the variants of a model's UNet take, the fewest first; raises ManifestError without a UNet."""
    packages, tokens = folder.manifest.networks.get(UNET.name), folder.manifest.tokens
    if not packages:
        raise ManifestError(f"{folder.path} has no {UNET.name}; convert the model again")
    return sorted({(package.tokens or tokens) // tokens for package in packages})
