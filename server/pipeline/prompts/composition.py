"""Reads composed prompts: ``a cat AND a dog :0.7``, prompts that each give a direction of their own (Liu et al. 2022)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_AND = re.compile(r"\bAND\b")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?|[0-9]*\.[0-9]+)")


@dataclass(frozen=True)
class Part:
    """One of the prompts that AND joins, and how much it counts."""

    text: str
    weight: float = 1.0


def _part(text: str) -> Part:
    before, colon, number = text.rpartition(":")
    if colon and _NUMBER.fullmatch(number.strip()):
        return Part(before.strip(), float(number))
    return Part(text.strip())


def parts_of(prompt: str) -> tuple[Part, ...]:
    """Return the prompts that AND joins, at least one; a word that only contains AND does not count.

    AUTOMATIC1111 reads a weight at the end of every prompt, so that "a screen of 16:9" would count nine times; here a
    prompt without AND has none.
    """
    texts = _AND.split(prompt)
    return tuple(map(_part, texts)) if len(texts) > 1 else (Part(prompt),)
