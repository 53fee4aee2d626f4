"""Reads how much each word of a prompt counts: ``(a)``, ``(a:1.3)``, ``[a]``, and BREAK, which begins a new chunk.

The syntax and the numbers are AUTOMATIC1111's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

#: What a pair of round brackets multiplies by; a pair of square ones divides.
_STRONGER = 1.1
#: An escape (a lone backslash is not text either), the end of (text:1.3), a bracket, or text. Possessive, so that no text takes
#: longer than its length.
_TOKENS = re.compile(r"\\[\\()\[\]]?|:\s*+[-+]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)\s*+\)|[()\[\]]|[^\\()\[\]:]++|:")
_BREAK = re.compile(r"\bBREAK\b")
_PAIRS = {")": "(", "]": "["}


@dataclass(frozen=True)
class Piece:
    """A piece of a prompt, and how much its words count."""

    text: str
    weight: float = 1.0


Section = tuple[Piece, ...]


def _merged(pieces: list[Piece]) -> Section:
    """Join neighbors of the same weight, whose letters are then one word."""
    joined: list[tuple[list[str], float]] = []
    for piece in pieces:
        if joined and joined[-1][1] == piece.weight:
            joined[-1][0].append(piece.text)
        else:
            joined.append(([piece.text], piece.weight))
    return tuple(Piece("".join(texts), weight) for texts, weight in joined)


def sections_of(text: str) -> tuple[Section, ...]:
    """Return the sections between BREAKs, each in pieces with their weights, at least one piece each.

    Any text is a prompt: a bracket that is never closed counts to the end, one that was not opened is text.
    """
    texts: list[str] = []
    breaks: list[int] = []  # indices of the pieces that begin a section
    spans: list[tuple[int, int, float]] = []  # first piece, end, multiplier, in the order of closing
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for token in _TOKENS.findall(text):
        if token in opened:
            opened[token].append(len(texts))
        elif token in _PAIRS and opened[_PAIRS[token]]:
            factor = _STRONGER if token == ")" else 1 / _STRONGER
            spans.append((opened[_PAIRS[token]].pop(), len(texts), factor))
        elif token[0] == ":" and len(token) > 1 and opened["("]:
            spans.append((opened["("].pop(), len(texts), float(token[1:-1])))
        elif token[0] == "\\":
            texts.append(token[1:])
        else:
            first, *others = _BREAK.split(token)
            texts.append(first)
            for other in others:
                breaks.append(len(texts))
                texts.append(other)
    spans += [(start, len(texts), _STRONGER) for start in opened["("]]
    spans += [(start, len(texts), 1 / _STRONGER) for start in opened["["]]
    weights = np.ones(len(texts))
    # Slices, since thousands of brackets may be in one another; one after the other, so that rounding is A1111's.
    with np.errstate(all="ignore"):
        for start, end, factor in spans:
            weights[start:end] *= factor
    pieces = [Piece(each, weight) for each, weight in zip(texts, weights.tolist(), strict=True)]
    ends = zip([0, *breaks], [*breaks, len(pieces)], strict=True)
    return tuple(_merged(pieces[a:b]) or (Piece(""),) for a, b in ends)
