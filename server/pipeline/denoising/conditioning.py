"""Conditioning: the UNet's inputs other than the noisy latents, from a request's prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from converter.folder import ModelFolder
from converter.networks.registry import UNET_PROMPT
from converter.runtime import Network
from server.pipeline.denoising.denoiser import Moment
from server.pipeline.denoising.rows import Float16
from server.pipeline.prompts.chunks import chunk_count, unet_places
from server.pipeline.prompts.editing import Walk
from server.pipeline.prompts.embedded import merged_words
from server.pipeline.prompts.encoder import EncodedPrompt, PromptEncoder
from server.pipeline.prompts.reading import read_prompt
from server.pipeline.prompts.tokenizer import prompt_tokenizers
from server.pipeline.request import GenerationRequest

#: Aesthetic scores of good and of bad images that SDXL's refiner was trained with (diffusers' aesthetic_score defaults).
_GOOD, _BAD = 6.0, 2.5
_REFINER_IDS = 5


@dataclass(frozen=True)
class Row:
    """One row of the UNet's inputs: those of one prompt, by name, each with a first axis of 1.

    weight: how much the prompt counts beside others; 1 for a single one.
    """

    inputs: dict[str, Float16]
    weight: float = 1.0


@dataclass(frozen=True)
class Rows:
    """The rows of one step. ``negative`` is None without classifier-free guidance."""

    negative: Row | None
    positives: tuple[Row, ...]


@dataclass(frozen=True)
class Conditioning:
    """The UNet's inputs besides the noisy latents, for all steps of a request.

    steps: the rows of each step.
    tokens: the length of the prompts' states.
    notes: what of the prompts could not be taken as it is, in sentences.
    """

    steps: tuple[Rows, ...]
    tokens: int
    notes: tuple[str, ...] = ()

    def at(self, moment: Moment) -> Rows:
        """Return the rows of a step."""
        return self.steps[moment.step(len(self.steps))]


def guidance_embedding(scale: float, width: int) -> NDArray[np.float32]:
    """Return the embedding of the guidance scale for LCM, fp32 [width] (diffusers' get_guidance_scale_embedding of scale - 1)."""
    half = width // 2
    frequencies = np.exp(np.arange(half, dtype=np.float32) * np.float32(-math.log(10000) / (half - 1)))
    angles = np.float32((scale - 1) * 1000) * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)])


@dataclass(frozen=True)
class _Text:
    """A text that is encoded, and whether it says what not to show."""

    text: str
    is_negative: bool = False


class Conditioner:
    """Makes conditioning from prompts with a model's text encoders."""

    def __init__(
        self,
        folder: ModelFolder,
        network: Callable[..., Network],
        words: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    ) -> None:
        """``words`` has the words that stand for embeddings, by the names of those that are merged into the model."""
        self._manifest, self._network = folder.manifest, network
        self._tokenizers = prompt_tokenizers(folder, merged_words(folder.manifest, words))
        self._places = unet_places(folder)

    def _prompt_inputs(self, states: Float16) -> dict[str, Float16]:
        """Return the inputs for the prompts' states, [N, D, 1, T]: the states, and their keys and values if the UNet takes these."""
        inputs = {"encoder_hidden_states": states}
        if UNET_PROMPT.name not in self._manifest.networks:
            return inputs
        count = len(states)
        network = self._network(UNET_PROMPT.name, batch=min(count, 2), tokens=states.shape[3])
        rows = network.inputs["encoder_hidden_states"].shape[0]
        states = np.concatenate([states, *[states[-1:]] * (-count % rows)])
        calls = [network.predict({"encoder_hidden_states": states[i : i + rows]}) for i in range(0, len(states), rows)]
        return inputs | {
            name: np.concatenate([call[name] for call in calls])[:count].astype(np.float16) for name in network.outputs
        }

    def _time_ids(self, request: GenerationRequest, count: int, is_negative: bool) -> Float16:
        """Return original size, crop and, for the base model, target size or, for the refiner, the aesthetic score."""
        size = [request.computed.height, request.computed.width]
        last = [_BAD if is_negative else _GOOD] if count == _REFINER_IDS else size
        return np.asarray([[*size, 0, 0, *last]], np.float16)

    def _rows(self, request: GenerationRequest, encoded: Mapping[_Text, EncodedPrompt]) -> dict[_Text, Row]:
        conditions = self._manifest.conditions
        states = np.concatenate([each.states for each in encoded.values()])
        inputs = self._prompt_inputs(np.ascontiguousarray(states.transpose(0, 2, 1)[:, :, None], np.float16))
        rows: dict[_Text, Row] = {}
        for i, (text, prompt) in enumerate(encoded.items()):
            own = {name: values[i : i + 1] for name, values in inputs.items()}
            if conditions.time_ids is not None:
                own["text_embeds"] = prompt.pooled.astype(np.float16)
                own["time_ids"] = self._time_ids(request, conditions.time_ids, text.is_negative)
            if conditions.guidance_width is not None:
                embedding = guidance_embedding(request.sampling.guidance_scale, conditions.guidance_width)
                own["timestep_cond"] = embedding.astype(np.float16)[None]
            rows[text] = Row(own)
        return rows

    def conditioning(self, request: GenerationRequest, walk: Walk | None = None) -> Conditioning:
        """Return the conditioning for this request. Each text is encoded once, however many steps it stands in.

        ``walk`` has the steps of a further pass; None: those of the request.
        """
        prompts, walk = request.prompts, walk or Walk(request.sampling.steps - request.skipped_steps)
        prompt = read_prompt(prompts.prompt, with_syntax=prompts.has_syntax)
        texts = [tuple(_Text(text) for text in step) for step in prompt.texts(walk)]
        negatives: list[_Text | None] = [None] * walk.steps
        if request.sampling.is_guided(self._manifest):
            negative = read_prompt(prompts.negative_prompt, with_syntax=prompts.has_syntax, is_negative=True)
            negatives = [_Text(text, True) for (text,) in negative.texts(walk)]
        encoder = PromptEncoder(self._tokenizers, self._network, prompts.has_syntax, prompts.clip_skip)
        distinct = dict.fromkeys(
            text for step in zip(negatives, *zip(*texts, strict=True), strict=True) for text in step
        )
        chunks = {text: encoder.chunks(text.text) for text in distinct if text is not None}
        needed = max(map(chunk_count, chunks.values()))
        places = next((count for count in self._places if count >= needed), self._places[-1])
        encoded = {
            text: encoder.encode(each, places).zeros() if self._is_none(text) else encoder.encode(each, places)
            for text, each in chunks.items()
        }
        rows = self._rows(request, encoded)
        steps = tuple(
            Rows(
                None if of_none is None else rows[of_none],
                tuple(replace(rows[text], weight=weight) for text, weight in zip(step, prompt.weights, strict=True)),
            )
            for of_none, step in zip(negatives, texts, strict=True)
        )
        notes = {note for text, each in chunks.items() for note in encoder.notes(each, places)}
        return Conditioning(steps, tokens=places * self._manifest.tokens, notes=tuple(sorted(notes)))

    def _is_none(self, text: _Text) -> bool:
        """Return whether this is the empty negative prompt of a model that was trained with states of zeros for it."""
        return self._manifest.conditions.zeros_for_no_prompt and text.is_negative and not text.text
