"""Divides a prompt's tokens into chunks of the text encoder's length, with a weight for each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: A chunk that is full ends after its last comma if that is among its last tokens, so that a phrase stays together
#: (AUTOMATIC1111's comma_padding_backtrack).
BACKTRACK = 20


@dataclass(frozen=True)
class WeightedToken:
    """A token's number in the vocabulary, and how much it counts."""

    number: int
    weight: float = 1.0


Chunk = tuple[WeightedToken, ...]


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
            if len(chunk) == size:
                chunks.append(tuple(chunk))
                chunk, after_comma = [], 0
            chunk.append(token)
    return [*chunks, tuple(chunk)] if chunk or not chunks else chunks
