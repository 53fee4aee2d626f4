"""The upscalers that every server has."""

from __future__ import annotations

from typing import Literal, get_args

Resampling = Literal["lanczos", "nearest"]
#: The upscalers without a network.
RESAMPLINGS: tuple[Resampling, ...] = get_args(Resampling)
#: Enlarges latents instead of an image, between the two passes of hires fix.
LATENT = "latent"
