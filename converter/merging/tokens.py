"""Textual inversions as tokens: rows after those of a text encoder's vocabulary, and the ids that call them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.loras import EmbeddingFile
from converter.manifest import MergedEmbedding
from converter.merging.errors import MergeError

#: The constant with a text encoder's token vectors.
TABLE = "text_model_embeddings_token_embedding_weight"


@dataclass(frozen=True)
class TokenRows:
    """Embeddings' vectors, appended to a text encoder's table of token vectors; a change as in `converter.merging.changes`."""

    vectors: tuple[tuple[str, NDArray[Any]], ...]

    @property
    def count(self) -> int:
        """The number of rows."""
        return sum(len(rows) for _, rows in self.vectors)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the table's shape with the rows. Raises MergeError if vectors have another width."""
        for name, rows in self.vectors:
            if rows.shape[1:] != shape[1:]:
                raise MergeError(f"{name} has vectors of {rows.shape[-1]} numbers; the model's tokens have {shape[-1]}")
        return (shape[0] + self.count, *shape[1:])

    def apply(self, weight: NDArray[Any], scale: float) -> NDArray[Any]:
        """Append the rows."""
        return np.concatenate([weight, *(rows.astype(weight.dtype) for _, rows in self.vectors)])


def token_rows(encoder: str, embeddings: Iterable[EmbeddingFile]) -> TokenRows:
    """Return the vectors that embeddings, which fit the model's family, have for one of its text encoders."""
    return TokenRows(tuple((embedding.name, embedding.vectors[encoder]) for embedding in embeddings))


def numbered(embeddings: Iterable[EmbeddingFile], vocabularies: Mapping[str, int]) -> tuple[MergedEmbedding, ...]:
    """Return the ids of embeddings' tokens; ``vocabularies`` has the number of rows that each text encoder had before."""
    numbers, first = [], dict(vocabularies)
    for embedding in embeddings:
        numbers.append(MergedEmbedding(embedding.name, embedding.sha256, embedding.count, first))
        first = {encoder: number + embedding.count for encoder, number in first.items()}
    return tuple(numbers)
