"""Words of a prompt that stand for an embedding's vectors, as AUTOMATIC1111 and diffusers read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from converter.manifest import Manifest


@dataclass(frozen=True)
class EmbeddedWords:
    """The words that stand for an embedding, and the numbers of the tokens that are its vectors."""

    words: tuple[str, ...]
    numbers: tuple[int, ...]


def is_plain(word: str) -> bool:
    """Return whether a word begins and ends with letters or digits, so that in ``myword`` it is part of another.

    ``<cat-toy>``, diffusers' form, stands for itself wherever it is.
    """
    return word[:1].isalnum() and word[-1:].isalnum()


def merged_words(manifest: Manifest, words: Mapping[str, tuple[str, ...]]) -> Callable[[str], Sequence[EmbeddedWords]]:
    """Return the function that returns, for a text encoder, what stands for the embeddings that are merged into a model.

    ``words`` has their words by name; the name itself stands for one that has none there.
    """
    merged = () if manifest.merged is None else manifest.merged.embeddings

    def of(encoder: str) -> list[EmbeddedWords]:
        starts = [(each, each.first[encoder]) for each in merged]
        return [
            EmbeddedWords(words.get(each.name, (each.name,)), tuple(range(first, first + each.vectors)))
            for each, first in starts
        ]

    return of
