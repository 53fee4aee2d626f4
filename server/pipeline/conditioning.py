"""Turns a request's prompts into the UNet's inputs besides the noisy latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converter.folder import ModelFolder
from converter.networks.registry import UNET, UNET_PROMPT, text_encoders
from converter.runtime import Network
from server.pipeline.cost import is_guided
from server.pipeline.prompt import PromptTokenizer
from server.pipeline.request import GenerationRequest

Half = NDArray[np.float16]
#: Aesthetic scores of good images and of bad ones, which SDXL's refiner takes (diffusers' defaults).
_GOOD, _BAD = 6.0, 2.5
_REFINER_IDS = 5


@dataclass(frozen=True)
class Conditioning:
    """The UNet's inputs by name, each with a row for the negative prompt and a row for the prompt, in this order.

    tokens: how long the prompts' states are.
    guided: whether the two rows' results are to be combined (classifier-free guidance); otherwise the prompt's counts
    alone.
    """

    inputs: dict[str, Half]
    tokens: int
    guided: bool

    def rows(self, batch: int) -> list[dict[str, Half]]:
        """Return the inputs of each call of a UNet that takes ``batch`` rows; without guidance the prompt's row alone."""
        if batch == 2:
            return [self.inputs]
        wanted = (0, 1) if self.guided else (1,)
        return [{name: rows[i : i + 1] for name, rows in self.inputs.items()} for i in wanted]


def guidance_embedding(scale: float, width: int) -> NDArray[np.float32]:
    """Return the guidance scale as LCM takes it, fp32 [width] (diffusers' get_guidance_scale_embedding of scale - 1)."""
    half = width // 2
    frequencies = np.exp(np.arange(half, dtype=np.float32) * np.float32(-math.log(10000) / (half - 1)))
    angles = np.float32((scale - 1) * 1000) * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)])


class Conditioner:
    """Turns prompts into conditioning with a model's text encoders."""

    def __init__(self, folder: ModelFolder, network: Callable[..., Network]) -> None:
        self._manifest, self._network = folder.manifest, network
        tokens, encoders = folder.manifest.tokens, text_encoders(folder.manifest.networks)
        self._tokenizers = {name: PromptTokenizer(folder.tokenizer(own), tokens) for name, own in encoders.items()}
        self._lengths = sorted({package.tokens or tokens for package in folder.manifest.networks[UNET.name]})

    def _pieces(self, prompt: str) -> int:
        """Return how many times the text encoders' length a prompt takes, of what the UNet has programs for."""
        most = self._lengths[-1] // self._manifest.tokens
        return max(len(tokenizer.pieces(prompt, most)) for tokenizer in self._tokenizers.values())

    def _encoded(self, prompt: str, pieces: int, zeros: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return a prompt's states, fp32 [1, T, D] of all text encoders side by side, and the last one's pooled state.

        The states of the pieces follow one another, those of empty ones last; the pooled state is the first piece's.
        """
        found = []
        for name, tokenizer in self._tokenizers.items():
            rows = tokenizer.pieces(prompt, pieces)
            rows += tokenizer.pieces("", 1) * (pieces - len(rows))
            outputs = [self._network(name).predict({"input_ids": ids}) for ids in rows]
            rows_states = [np.asarray(o.get("last_hidden_state", o.get("hidden_embeds"))) for o in outputs]
            found.append((np.concatenate(rows_states, 1), outputs[0]["pooled_outputs"]))
        states, pooled = np.concatenate([s for s, _ in found], -1), found[-1][1]
        return (np.zeros_like(states), np.zeros_like(pooled)) if zeros else (states, pooled)

    def _prompt(self, states: Half) -> dict[str, Half]:
        """Return the UNet's inputs for the prompts' states, [2, D, 1, T]: as they are, or projected to keys and values."""
        if UNET_PROMPT.name not in self._manifest.networks:
            return {"encoder_hidden_states": states}
        network = self._network(UNET_PROMPT.name, batch=len(states), tokens=states.shape[3])
        rows = network.inputs["encoder_hidden_states"].shape[0]
        calls = [network.predict({"encoder_hidden_states": states[i : i + rows]}) for i in range(0, len(states), rows)]
        return {name: np.concatenate([call[name] for call in calls]).astype(np.float16) for name in network.outputs}

    def _time_ids(self, request: GenerationRequest, count: int) -> Half:
        """Return original size, crop and, for the base model, target size; for the refiner how good the image is."""
        size = [request.computed.height, request.computed.width, 0, 0]
        if count == _REFINER_IDS:
            return np.asarray([[*size, _BAD], [*size, _GOOD]], np.float16)
        return np.asarray([[*size, request.computed.height, request.computed.width]] * 2, np.float16)

    def conditioning(self, request: GenerationRequest) -> Conditioning:
        """Return what the UNet takes for this request."""
        wanted = self._manifest.conditions
        zeros = wanted.zeros_for_no_prompt and not request.prompts.negative_prompt
        needed = self._manifest.tokens * max(
            self._pieces(p) for p in (request.prompts.negative_prompt, request.prompts.prompt)
        )
        pieces = next(length for length in self._lengths if length >= needed) // self._manifest.tokens
        pairs = [
            self._encoded(request.prompts.negative_prompt, pieces, zeros),
            self._encoded(request.prompts.prompt, pieces, False),
        ]
        states = np.concatenate([states for states, _ in pairs])
        inputs = self._prompt(np.ascontiguousarray(states.transpose(0, 2, 1)[:, :, None], np.float16))
        if wanted.time_ids is not None:
            inputs["text_embeds"] = np.concatenate([pooled for _, pooled in pairs]).astype(np.float16)
            inputs["time_ids"] = self._time_ids(request, wanted.time_ids)
        if wanted.guidance_width is not None:
            row = guidance_embedding(request.sampling.guidance_scale, wanted.guidance_width).astype(np.float16)
            inputs["timestep_cond"] = np.stack([row, row])
        return Conditioning(inputs, tokens=states.shape[1], guided=is_guided(request, self._manifest))
