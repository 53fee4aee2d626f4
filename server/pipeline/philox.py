"""Normal random numbers as PyTorch draws them on an NVIDIA GPU, on any machine.

Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") keyed by the seed, and the Box-Muller
transform as cuRAND computes it. Each number has a counter of its own: its index, and how many tensors were drawn before.
A GPU does the same if it has a thread for every number (some hundred thousand; latents have 16 to 65 thousand).
AUTOMATIC1111 calls this generator NV and uses it to reproduce a GPU's images elsewhere (modules/rng_philox.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
#: cuRAND's constants, rounded to fp32 as in cuRAND: 2**-32, and 2**-32 of a full turn (2 pi).
_FRACTION = float(np.float32(2.3283064e-10))
_TURN = float(np.float32(2.3283064e-10 * 6.2831855))


def _high_low(product: NDArray[np.uint64]) -> tuple[Words, Words]:
    """Return the upper and the lower 32 bits."""
    return (product >> np.uint64(32)).astype(np.uint32), product.astype(np.uint32)


def philox(counter: Sequence[Words], key: tuple[int, int]) -> list[Words]:
    """Return four random words for each counter of four words, with a key of two words."""
    words = list(counter)
    for number in range(_ROUNDS):
        first, second = (np.uint32((k + number * step) % 2**32) for k, step in zip(key, _KEY_STEPS, strict=True))
        high_0, low_0 = _high_low(words[0].astype(np.uint64) * _MULTIPLIERS[0])
        high_2, low_2 = _high_low(words[2].astype(np.uint64) * _MULTIPLIERS[1])
        words = [high_2 ^ words[1] ^ first, low_2, high_0 ^ words[3] ^ second, low_0]
    return words


class PhiloxGenerator:
    """``torch.Generator("cuda").manual_seed(seed)``, for normal numbers alone."""

    def __init__(self, seed: int) -> None:
        self._key = (seed % 2**32, seed >> 32)
        self._drawn = 0

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the next tensor of ``torch.randn``."""
        count = int(np.prod(shape))
        zeros = np.zeros(count, np.uint32)
        counter = (zeros + np.uint32(self._drawn), zeros, np.arange(count, dtype=np.uint32), zeros)
        self._drawn += 1
        first, second, _, _ = philox(counter, self._key)
        radius = np.sqrt(-2.0 * np.log(first * _FRACTION + _FRACTION / 2))
        normal = radius * np.sin(second * _TURN + _TURN / 2)
        return np.asarray(normal, np.float32).reshape(shape)
