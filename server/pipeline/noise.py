"""The random numbers of an image: which generator draws them, and in which order.

Generator and order are those of the software whose images are to be reproduced. diffusers draws the source image's sample
from the encoder's distribution before the noise, Apple's Swift pipeline after it. A1111 draws it independently of the
image's seed; here the distribution's mean is used instead (the spread of Stable Diffusion's encoder is small). For the
steps of ancestral schedulers diffusers and A1111 continue with the same generator, and Apple's starts again from the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from server.pipeline.philox import PhiloxGenerator
from server.pipeline.request import ImageSeeds

Noise = NDArray[np.float32]
#: Above this mean cosine A1111 treats two noises as parallel: the arc between them has no direction.
_PARALLEL = 0.9995


class Generator(Protocol):
    """Draws normal random numbers, one tensor after another."""

    def normal(self, shape: tuple[int, ...]) -> Noise:
        """Return the next tensor, fp32."""


class TorchGenerator:
    """PyTorch's generator on the CPU, which diffusers usually uses."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def normal(self, shape: tuple[int, ...]) -> Noise:
        """Return the next tensor of ``torch.randn``."""
        tensor: Noise = torch.randn(shape, generator=self._generator).numpy()
        return tensor


class NumpyGenerator:
    """NumPy's Mersenne Twister with polar pairs, as ``numpy.random.seed`` sets it (Apple's NumPyRandomSource)."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.RandomState(seed)

    def normal(self, shape: tuple[int, ...]) -> Noise:
        """Return the next array of ``numpy.random.randn``, as fp32."""
        return self._generator.standard_normal(shape).astype(np.float32)


_GENERATORS: dict[str, Callable[[int], Generator]] = {
    "torch": TorchGenerator,
    "numpy": NumpyGenerator,
    "cuda": PhiloxGenerator,
}


def slerp(strength: float, low: Noise, high: Noise) -> Noise:
    """Interpolate from ``low`` to ``high`` [1, C, H, W] along the arc between them, by ``strength`` (A1111's rng.slerp).

    As in A1111, each column of a channel has its own angle: norms are taken over H.
    """
    a, b = (noise / np.linalg.norm(noise, axis=2, keepdims=True) for noise in (low, high))
    cosine = (a * b).sum(2, keepdims=True)
    if cosine.mean() > _PARALLEL:
        return low
    angle = np.arccos(np.clip(cosine, -1, 1))
    weight_low, weight_high = np.sin((1 - strength) * angle), np.sin(strength * angle)
    return np.asarray((weight_low * low + weight_high * high) / np.sin(angle), np.float32)


class ImageNoise:
    """Draws the noise of one image. Its methods are called in the order they stand in, each only if it is needed."""

    def __init__(self, rng: str, seeds: ImageSeeds, variation_strength: float, shape: tuple[int, ...]) -> None:
        """``rng`` is one of RNGS, ``shape`` the latents' [1, C, h, w]."""
        self._rng, self._seeds, self._strength, self._shape = rng, seeds, variation_strength, shape
        self._generator = _GENERATORS[rng](seeds.seed)
        self._early: Noise | None = None
        self._steps = _GENERATORS[rng](seeds.seed) if rng == "numpy" else self._generator

    def encoding(self) -> Noise:
        """Return the offset of the source image's latents from the mean, in standard deviations."""
        if self._rng == "cuda":
            return np.zeros(self._shape, np.float32)
        if self._rng == "numpy":
            self._early = self._generator.normal(self._shape)
        return self._generator.normal(self._shape)

    def start(self) -> Noise:
        """Return the noise that an image starts from, interpolated towards the variation's noise."""
        noise = self._generator.normal(self._shape) if self._early is None else self._early
        if self._seeds.variation is None:
            return noise
        other = _GENERATORS[self._rng](self._seeds.variation).normal(self._shape)
        return slerp(self._strength, noise, other)

    def masked(self) -> Noise:
        """Return the offset of a masked image's latents from the mean; diffusers draws it after the start's noise."""
        return np.zeros(self._shape, np.float32) if self._rng == "cuda" else self._generator.normal(self._shape)

    def step(self) -> Noise:
        """Draw fresh noise for a step of a scheduler that uses it."""
        return self._steps.normal(self._shape)
