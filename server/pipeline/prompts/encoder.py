"""Encodes prompts of any length with a model's text encoders, chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from converter.networks.features import STATES, skipping
from converter.runtime import Network
from server.pipeline.prompts.chunks import Chunk, Chunks, chunk_count, text_chunks
from server.pipeline.prompts.tokenizer import PromptTokenizer

States: TypeAlias = NDArray[np.float32]
#: A mean below this share of the standard deviation is not restored. The bundled model's is 0.0007 or less.
_LEAST_MEAN = 0.01
#: Beyond this, fp16 overflows and the image is lost long before.
MOST_WEIGHT = 100.0


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt's states, fp32 [1, T, D] of all text encoders side by side, and the last encoder's pooled state [1, P].

    The pooled state is that of the first chunk, without weights.
    """

    states: States
    pooled: States

    def zeros(self) -> EncodedPrompt:
        """Return zeros in its place."""
        return EncodedPrompt(np.zeros_like(self.states), np.zeros_like(self.pooled))


def limited(weight: float) -> float:
    """Return a weight within MOST_WEIGHT; one that is no number, since brackets multiplied it too often, is the greatest."""
    return MOST_WEIGHT if math.isnan(weight) else max(-MOST_WEIGHT, min(weight, MOST_WEIGHT))


def emphasized(states: States, weights: NDArray[np.float32]) -> States:
    """Return a chunk's states [1, T, D], each multiplied by its token's weight, with the mean of all restored.

    AUTOMATIC1111's emphasis ("Original"), which keeps the whole tensor's mean, since without that the image breaks sooner. A mean
    of nearly nothing is not restored: the quotient of two such means is noise, which would scale all states.
    """
    if (weights == 1).all():
        return states
    multiplied = np.asarray(states * weights[None, :, None], np.float32)
    if any(abs(each.mean()) <= _LEAST_MEAN * each.std() for each in (states, multiplied)):
        return multiplied
    return np.asarray(multiplied * (states.mean() / multiplied.mean()), np.float32)


def joined(chunks: list[States], most: int) -> States:
    """Return the states of chunks, [1, T, D] each, one after the other: [1, most T, D] at most.

    Where there are more, the last place has the mean of all that remain. They count alike, as they would side by side, where
    each has as many states as any other: so a weight means the same in all of them.
    """
    kept, rest = chunks[: most - 1], chunks[most - 1 :]
    return np.concatenate([*kept, np.mean(rest, 0, dtype=np.float32)] if len(rest) > 1 else chunks, 1)


@dataclass
class PromptEncoder:
    """A model's text encoders for one request, which encodes nothing twice.

    network: name -> a loaded text encoder.
    with_syntax: whether prompts have AUTOMATIC1111's syntax; otherwise every character is text.
    clip_skip: how many of the last layers are skipped, counted from 1 for none.
    """

    tokenizers: Mapping[str, PromptTokenizer]
    network: Callable[[str], Network]
    with_syntax: bool = True
    clip_skip: int = 1
    _encoded: dict[tuple[str, bytes], Mapping[str, NDArray[Any]]] = field(default_factory=dict)

    def chunks(self, text: str) -> Chunks:
        """Return the text in chunks (see `text_chunks`)."""
        return text_chunks(self.tokenizers, text, with_syntax=self.with_syntax)

    def _outputs(self, name: str, chunk: Chunk) -> Mapping[str, NDArray[Any]]:
        ids = self.tokenizers[name].padded([token.number for token in chunk])
        key = name, ids.tobytes()
        if key not in self._encoded:
            self._encoded[key] = self.network(name).predict({"input_ids": ids})
        return self._encoded[key]

    def _states(self, name: str, chunk: Chunk) -> States:
        outputs = self._outputs(name, chunk)
        wanted = (skipping(states, self.clip_skip) for states in STATES)
        states = np.asarray(next(outputs[output] for output in wanted if output in outputs), np.float32)
        weights = np.ones(states.shape[1], np.float32)
        weights[1 : 1 + len(chunk)] = [limited(token.weight) for token in chunk]
        return emphasized(states, weights)

    def encode(self, chunks: Chunks, places: int) -> EncodedPrompt:
        """Return a text's states for a UNet that takes ``places`` chunks; empty chunks fill up a shorter text.

        Of a text without syntax that is longer, the rest is left out; of one with syntax the last chunks are averaged.
        """
        states = []
        for name, own in chunks.items():
            read = own if self.with_syntax else own[:places]
            filled = [*read, *[()] * (places - len(read))]
            states.append(joined([self._states(name, chunk) for chunk in filled], places))
        last = list(chunks)[-1]
        return EncodedPrompt(np.concatenate(states, -1), self._outputs(last, chunks[last][0])["pooled_outputs"])

    def notes(self, chunks: Chunks, places: int) -> Iterator[str]:
        """Yield what of a text a UNet that takes ``places`` chunks cannot take as it is, in sentences."""
        count, (tokenizer, *_) = chunk_count(chunks), self.tokenizers.values()
        if count > places:
            most = f"this model's UNet takes {places * tokenizer.room} tokens"
            yield (
                f"a prompt takes {count} chunks of {tokenizer.room} tokens and {most}: the states of the last "
                f"{count - places + 1} chunks were averaged"
                if self.with_syntax
                else f"{most}: what follows them in a prompt was left out"
            )
        if any(limited(token.weight) != token.weight for own in chunks.values() for chunk in own for token in chunk):
            yield f"a weight in a prompt is beyond {MOST_WEIGHT:g} and counts as {MOST_WEIGHT:g}"
