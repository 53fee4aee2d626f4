"""Textual inversions as tokens: rows after those of a text encoder's vocabulary, and the ids that call them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.folder import MergedEmbedding
from converter.merging.errors import MergeError
from converter.merging.inputs import Embedding

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


def token_rows(encoder: str, embeddings: Iterable[Embedding]) -> TokenRows:
    """Return the vectors that embeddings have for a text encoder. Raises MergeError if one has none, or one beyond fp16."""
    rows = []
    for embedding in embeddings:
        if encoder not in embedding.vectors:
            raise MergeError(
                f"{embedding.name} has vectors for {' and '.join(embedding.vectors)}, and none for the model's {encoder}"
            )
        vectors = np.asarray(embedding.vectors[encoder])
        if not np.abs(vectors.astype(np.float64)).max(initial=0) <= np.finfo(np.float16).max:
            raise MergeError(f"{embedding.name} has values that are not finite in fp16; the file is damaged")
        rows.append((embedding.name, vectors))
    return TokenRows(tuple(rows))


def numbered(embeddings: Sequence[Embedding], vocabularies: Mapping[str, int]) -> tuple[MergedEmbedding, ...]:
    """Return the ids of embeddings' tokens; ``vocabularies`` has the number of rows that each text encoder had before.

    Raises MergeError if an embedding has more vectors for one text encoder than for another.
    """
    numbers, after = [], dict(vocabularies)
    for embedding in embeddings:
        counts = {encoder: len(embedding.vectors[encoder]) for encoder in vocabularies}
        if len(set(counts.values())) != 1:
            words = " and ".join(f"{count} vectors for {encoder}" for encoder, count in counts.items())
            raise MergeError(f"{embedding.name} has {words}; as many for each are accepted")
        count = next(iter(counts.values()))
        numbers.append(MergedEmbedding(embedding.name, embedding.sha256, count, dict(after)))
        after = {encoder: first + count for encoder, first in after.items()}
    return tuple(numbers)
