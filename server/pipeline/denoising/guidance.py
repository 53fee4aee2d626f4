"""Classifier-free guidance (Ho and Salimans 2022): how the predictions for a negative prompt and for prompts are combined."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.pipeline.request.sampling import Sampling, SigmaInterval

Prediction = NDArray[np.float32]

_EVERYWHERE = SigmaInterval()


@dataclass(frozen=True)
class Guidance:
    """The guidance of a request.

    scale: how far to go from the negative prompt's prediction towards the prompt's; at 1 the latter is the result.
    interval: the noise levels at which it applies.
    rescale: how far to bring the result's standard deviation back to the prompt's own (Lin et al. 2023, section 3.4).
    """

    scale: float
    interval: SigmaInterval = _EVERYWHERE
    rescale: float = 0.0

    @staticmethod
    def of(sampling: Sampling) -> Guidance:
        """Return the guidance that a request asks for."""
        return Guidance(sampling.guidance_scale, sampling.guidance_interval, sampling.guidance_rescale)

    def without_negative(self, positives: Prediction, weights: tuple[float, ...]) -> Prediction:
        """Return the prediction [1, C, h, w] of a step that is not guided: the mean of those for the prompts, [N, C, h, w].

        A prompt to be avoided, with a weight below 0, needs guidance; here it is left out.
        """
        if len(positives) == 1:
            return positives
        shares = np.maximum(weights, 0)
        return np.asarray(np.average(positives, 0, shares if shares.any() else None)[None], np.float32)

    def combine(self, negative: Prediction, positives: Prediction, weights: tuple[float, ...]) -> Prediction:
        """Return the guided prediction [1, C, h, w] from the negative one and one for each prompt, [N, C, h, w].

        Each prompt counts by its weight, as in composable diffusion (Liu et al. 2022).
        """
        directions = (positives - negative) * np.asarray(weights, np.float32)[:, None, None, None]
        guided = np.asarray(negative + np.float32(self.scale) * directions.sum(0, keepdims=True), np.float32)
        return rescaled(guided, positives[:1], self.rescale) if self.rescale else guided


def rescaled(guided: Prediction, positive: Prediction, share: float) -> Prediction:
    """Return ``guided`` with its standard deviation moved by ``share`` (0 to 1) to that of ``positive``.

    diffusers' rescale_noise_cfg.
    """
    # PyTorch's standard deviation has n - 1 in its denominator.
    factor = positive.std(ddof=1) / guided.std(ddof=1)
    return np.asarray(guided * np.float32(share * factor + (1 - share)), np.float32)
