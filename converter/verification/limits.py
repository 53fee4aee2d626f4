"""How near a converted network must be to its source's."""

from __future__ import annotations

#: A network below this is not installed; Apple's converter has the same limit (its ABSOLUTE_MIN_PSNR). The limit is for the
#: program as written, run by our own runtime; a device may be less exact, and its results are never held to this limit.
LEAST_DB = 35.0


#: The limit where layers take their inputs in 8 bits; the bundled model's UNet has 32 dB.
_LEAST_WITH_ACTIVATIONS_DB = 20.0


def least_db(bits: float | None, *, activations: bool = False) -> float:
    """Return the least PSNR in dB that is accepted of a network whose weights take so many bits on average (None: fp16).

    activations: layers take their inputs in 8 bits. A bit less costs about 6 dB. Others measured Stable Diffusion 1.5's
    UNet with palettes on a device: 8 bits 53.5 dB, 6 bits 40.2, 4 bits 27.5; the limit is 12 to 18 dB below.
    """
    least = LEAST_DB if bits is None else min(LEAST_DB, 6.0 * bits - 12)
    return min(least, _LEAST_WITH_ACTIVATIONS_DB) if activations else least
