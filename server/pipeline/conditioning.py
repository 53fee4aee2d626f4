"""Conditioning: the UNet's inputs other than the noisy latents, from a request's prompts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.errors import ManifestError
from converter.folder import ModelFolder
from converter.networks.registry import UNET, UNET_PROMPT, text_encoders
from converter.runtime import Network
from server.pipeline.cost import is_guided
from server.pipeline.denoiser import Moment
from server.pipeline.prompt import PromptTokenizer
from server.pipeline.request import GenerationRequest

Float16 = NDArray[np.float16]
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

    tokens: the length of the prompts' states.
    """

    rows: Rows
    tokens: int

    def at(self, moment: Moment) -> Rows:
        """Return the rows of a step."""
        return self.rows


def guidance_embedding(scale: float, width: int) -> NDArray[np.float32]:
    """Return the embedding of the guidance scale for LCM, fp32 [width] (diffusers' get_guidance_scale_embedding of scale - 1)."""
    half = width // 2
    frequencies = np.exp(np.arange(half, dtype=np.float32) * np.float32(-math.log(10000) / (half - 1)))
    angles = np.float32((scale - 1) * 1000) * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)])


class Conditioner:
    """Makes conditioning from prompts with a model's text encoders."""

    def __init__(self, folder: ModelFolder, network: Callable[..., Network]) -> None:
        self._manifest, self._network = folder.manifest, network
        tokens, encoders = folder.manifest.tokens, text_encoders(folder.manifest.networks)
        self._tokenizers = {name: PromptTokenizer(folder.tokenizer(own), tokens) for name, own in encoders.items()}
        packages = folder.manifest.networks.get(UNET.name)
        if not packages:
            raise ManifestError(f"{folder.path} has no {UNET.name}; convert the model again")
        self._lengths = sorted({package.tokens or tokens for package in packages})

    def _chunk_count(self, prompt: str) -> int:
        """Return how many chunks of the text encoders' length a prompt takes, at most what the UNet has variants for."""
        most = self._lengths[-1] // self._manifest.tokens
        return max(len(tokenizer.chunks(prompt, most)) for tokenizer in self._tokenizers.values())

    def _encode(self, prompt: str, count: int, zeros: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return a prompt's states, fp32 [1, T, D] of all text encoders side by side, and the last encoder's pooled state.

        The prompt is encoded in ``count`` chunks, the last ones empty if it is shorter; their states are concatenated. The
        pooled state is that of the first chunk.
        """
        encoded = []
        for name, tokenizer in self._tokenizers.items():
            chunks = tokenizer.chunks(prompt, count)
            chunks += tokenizer.chunks("", 1) * (count - len(chunks))
            outputs = [self._network(name).predict({"input_ids": ids}) for ids in chunks]
            chunk_states = [np.asarray(o.get("last_hidden_state", o.get("hidden_embeds"))) for o in outputs]
            encoded.append((np.concatenate(chunk_states, 1), outputs[0]["pooled_outputs"]))
        states, pooled = np.concatenate([s for s, _ in encoded], -1), encoded[-1][1]
        return (np.zeros_like(states), np.zeros_like(pooled)) if zeros else (states, pooled)

    def _prompt_inputs(self, states: Float16) -> dict[str, Float16]:
        """Return the inputs for the prompts' states, [2, D, 1, T]: the states, and their keys and values if the UNet takes these."""
        inputs = {"encoder_hidden_states": states}
        if UNET_PROMPT.name not in self._manifest.networks:
            return inputs
        network = self._network(UNET_PROMPT.name, batch=len(states), tokens=states.shape[3])
        rows = network.inputs["encoder_hidden_states"].shape[0]
        calls = [network.predict({"encoder_hidden_states": states[i : i + rows]}) for i in range(0, len(states), rows)]
        return inputs | {
            name: np.concatenate([call[name] for call in calls]).astype(np.float16) for name in network.outputs
        }

    def _time_ids(self, request: GenerationRequest, count: int) -> Float16:
        """Return original size, crop and, for the base model, target size or, for the refiner, the aesthetic score."""
        size = [request.computed.height, request.computed.width, 0, 0]
        if count == _REFINER_IDS:
            return np.asarray([[*size, _BAD], [*size, _GOOD]], np.float16)
        return np.asarray([[*size, request.computed.height, request.computed.width]] * 2, np.float16)

    def conditioning(self, request: GenerationRequest) -> Conditioning:
        """Return the conditioning for this request."""
        conditions, prompts = self._manifest.conditions, request.prompts
        zeros = conditions.zeros_for_no_prompt and not prompts.negative_prompt
        needed = self._manifest.tokens * max(self._chunk_count(p) for p in (prompts.negative_prompt, prompts.prompt))
        count = next(length for length in self._lengths if length >= needed) // self._manifest.tokens
        pairs = [self._encode(prompts.negative_prompt, count, zeros), self._encode(prompts.prompt, count, False)]
        states = np.concatenate([states for states, _ in pairs])
        inputs = self._prompt_inputs(np.ascontiguousarray(states.transpose(0, 2, 1)[:, :, None], np.float16))
        if conditions.time_ids is not None:
            inputs["text_embeds"] = np.concatenate([pooled for _, pooled in pairs]).astype(np.float16)
            inputs["time_ids"] = self._time_ids(request, conditions.time_ids)
        if conditions.guidance_width is not None:
            row = guidance_embedding(request.sampling.guidance_scale, conditions.guidance_width).astype(np.float16)
            inputs["timestep_cond"] = np.stack([row, row])
        negative, positive = (Row({name: rows[i : i + 1] for name, rows in inputs.items()}) for i in (0, 1))
        guided = is_guided(request, self._manifest)
        return Conditioning(Rows(negative if guided else None, (positive,)), tokens=states.shape[1])
