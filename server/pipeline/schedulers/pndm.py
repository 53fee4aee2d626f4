"""PNDM without its Runge-Kutta start, as Stable Diffusion 1 ships it ("PLMS"; Liu et al. 2022, equations 9 and 12)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from server.pipeline.schedulers.ddim import DDIM
from server.pipeline.schedulers.schedule import Latents, Noise, NoiseSchedule

#: Adams-Bashforth's weights for one to four predictions, that of the newest first.
WEIGHTS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


class PNDM(DDIM):
    """Adams-Bashforth over the last four predictions; at the start the second timestep is evaluated twice."""

    def __init__(self, schedule: NoiseSchedule, steps: int) -> None:
        # The weights are for noise (diffusers sums velocities, too), so predicted latents are first converted to noise.
        self._predicts_latents = schedule.prediction_type == "sample"
        super().__init__(replace(schedule, prediction_type="epsilon") if self._predicts_latents else schedule, steps)
        single = self.timesteps
        # diffusers' order: take the first step, evaluate again at its end, and average the two.
        self.timesteps = np.concatenate([single[:1], single[1:2], single[1:]]) if steps > 1 else single
        self._past: list[Latents] = []
        self._first: Latents | None = None

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Move one stride on by the weighted sum of the last predictions."""
        here = int(self.timesteps[i])
        if self._predicts_latents:
            alpha = self.schedule.alphas_cumprod[here]
            epsilon = (latents - np.float32(alpha**0.5) * prediction) / np.float32((1 - alpha) ** 0.5)
            prediction = np.asarray(epsilon, np.float32)
        before = here - self._stride
        count = len(self._past)
        if self._first is not None:
            # The second call: redo the first step with the average of both predictions.
            latents, self._first = self._first, None
            before, here = here, here + self._stride
            mean = np.asarray((prediction + self._past[-1]) / 2, np.float32)
            return self._move(mean, latents, here, before)
        past = self._past = [*self._past[-3:], prediction]
        if count == 0:
            self._first = latents
            return self._move(prediction, latents, here, before)
        weighted = [np.float32(w) * p for w, p in zip(WEIGHTS[min(count, 3)], reversed(past), strict=True)]
        return self._move(np.asarray(sum(weighted), np.float32), latents, here, before)
