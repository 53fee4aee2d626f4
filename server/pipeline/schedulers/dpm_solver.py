"""DPM-Solver (Lu et al. 2022a) and DPM-Solver++ (Lu et al. 2022b), with several steps or several calls for one update."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, expm1
from typing import Literal

import numpy as np

from converter.families.noise import Numbers
from server.pipeline.schedulers.schedule import Latents, Noise, NoiseSchedule
from server.pipeline.schedulers.sigma_schedules import Sigmas
from server.pipeline.schedulers.unit_variance import UnitVarianceScheduler

#: The steps from which on diffusers keeps the full order to the end, where the last sigma is not 0.
_MANY = 15

#: What is integrated: the denoised latents (DPM-Solver++), those with fresh noise (its SDE), or the noise (DPM-Solver).
Kind = Literal["ode", "sde", "noise"]


@dataclass(frozen=True)
class _Way:
    """A way from one call's latents to another's: integrates a Taylor polynomial in log(signal / noise).

    base, scale: the factors of the latents and of the integral.  std: that of fresh noise.
    length: the way's length, by which the kind multiplies it in the exponent (z in the papers' formulas).
    """

    kind: Kind
    base: float
    scale: float
    std: float
    length: float

    def weights(self, order: int, heun: bool) -> list[float]:
        """Return the integral's weights of the value at the start, and of the first and second differences.

        heun: weigh the first difference as Heun's method does, not as the midpoint method.
        """
        z = self.length
        whole = expm1(z)
        if order == 1:
            return [whole]
        if not heun:
            return [whole, whole / 2]
        # diffusers' sign of this half for the SDE is k-diffusion's opposite.
        half = -0.5 if self.kind == "sde" else 0.5
        return [whole, whole / z - 1, (whole - z) / z**2 - half]

    def moved(self, latents: Latents, differences: list[Latents], noise: Latents | None, heun: bool) -> Latents:
        """Return the latents at the end of the way, from the value at its start and its divided differences."""
        weights = self.weights(len(differences), heun)
        change = sum(np.float32(self.scale * w) * d for w, d in zip(weights, differences, strict=False))
        moved = np.float32(self.base) * latents - change
        return np.asarray(moved if noise is None else moved + np.float32(self.std) * noise, np.float32)


class _DPM(UnitVarianceScheduler):
    def __init__(self, schedule: NoiseSchedule, steps: int, sigmas: Sigmas | None, kind: Kind) -> None:
        self.ends_at_zero = kind != "noise"
        super().__init__(schedule, steps, sigmas)
        self.kind: Kind = kind
        #: The last calls' denoised latents (or noise), the newest first.
        self._past: list[Latents] = []

    def _way(self, i: int, to: int) -> _Way:
        """Return the way from call ``i``'s latents to call ``to``'s."""
        (signal, std), (signal_to, std_to) = self.signal_noise(i), self.signal_noise(to)
        h = self.log_ratio(to) - self.log_ratio(i)
        if self.kind == "noise":
            return _Way(self.kind, signal_to / signal, std_to, 0.0, h)
        if self.kind == "ode":
            return _Way(self.kind, std_to / std, signal_to, 0.0, -h)
        return _Way(self.kind, std_to / std * exp(-h), signal_to, std_to * (-expm1(-2 * h)) ** 0.5, -2 * h)

    def _remember(self, prediction: Latents, i: int, latents: Latents, most: int) -> None:
        value = self.noise_in if self.kind == "noise" else self.denoised
        self._past = [value(prediction, latents, i), *self._past[: most - 1]]


class DPMSolverMultistep(_DPM):
    """A multistep method: uses the last one, two or three predictions, and one fewer at each of the last steps of few."""

    def __init__(
        self,
        schedule: NoiseSchedule,
        steps: int,
        sigmas: Sigmas | None = None,
        *,
        kind: Kind = "ode",
        order: int = 2,
        heun: bool = False,
    ) -> None:
        """``heun``: weigh the second of two predictions as Heun's method does; with three, it is always so."""
        super().__init__(schedule, steps, sigmas, kind)
        self._order, self._heun = order, heun

    def whole(self, timesteps: Numbers, *, rounded: bool) -> Numbers:
        """Return whole timesteps; diffusers cuts off Karras' ones, too, for the squared cosine."""
        return super().whole(timesteps, rounded=rounded and self.schedule.beta_schedule != "squaredcos_cap_v2")

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Move to the next sigma along the polynomial through the last predictions."""
        self._remember(prediction, i, latents, self._order)
        left, few = len(self.timesteps) - i, len(self.timesteps) < _MANY
        order = min(len(self._past), 1 if left == 1 and (few or self.ends_at_zero) else 2 if left == 2 and few else 3)
        way, newest = self._way(i, i + 1), self._past[0]
        h = self.log_ratio(i + 1) - self.log_ratio(i)
        if h == 0:
            # Sigmas that end at the lowest one repeat it.
            return latents
        gaps = [(self.log_ratio(i - k) - self.log_ratio(i - k - 1)) / h for k in range(order - 1)]
        slopes = [(self._past[k] - self._past[k + 1]) / gap for k, gap in enumerate(gaps)]
        differences = [newest, *slopes[:1]]
        if order == 3:
            bend = (slopes[0] - slopes[1]) / (gaps[0] + gaps[1])
            differences = [newest, slopes[0] + gaps[0] * bend, bend]
        drawn = noise() if self.kind == "sde" else None
        return way.moved(latents, differences, drawn, self._heun or order == 3)


class DPMSolverSinglestep(_DPM):
    """A singlestep method of order 2: every second call redoes the step before it, over both and with both predictions.

    The first call of a pair gives latents that only the second prediction is for; a last call alone is of order 1.
    """

    def __init__(
        self, schedule: NoiseSchedule, steps: int, sigmas: Sigmas | None = None, *, kind: Kind = "ode"
    ) -> None:
        super().__init__(schedule, steps, sigmas, kind)
        self._start: Latents | None = None

    def spaced(self, steps: int) -> Numbers:
        """Return evenly spaced timesteps, whatever the model's spacing is: diffusers' class has no other."""
        return np.round(np.linspace(0, self.schedule.num_train_timesteps - 1, steps + 1))[::-1][:-1]

    def step(self, prediction: Latents, i: int, latents: Latents, noise: Noise) -> Latents:
        """Move to the next sigma from the latents before this call, or in each second call from those before the last."""
        self._remember(prediction, i, latents, 2)
        drawn = noise() if self.kind == "sde" else None
        second = i % 2 == 1 and i + 1 < len(self.timesteps)
        if not second or self._start is None:
            self._start = latents
            return self._way(i, i + 1).moved(latents, self._past[:1], drawn, heun=False)
        before, newest = self._past[1], self._past[0]
        way = self._way(i - 1, i + 1)
        part = (self.log_ratio(i) - self.log_ratio(i - 1)) / (self.log_ratio(i + 1) - self.log_ratio(i - 1))
        return way.moved(self._start, [before, (newest - before) / part], drawn, heun=False)
