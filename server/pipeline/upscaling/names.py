"""The upscalers that every server has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar, get_args

_T = TypeVar("_T")

Resampling = Literal["lanczos", "nearest"]
#: The upscalers without a network.
RESAMPLINGS: tuple[Resampling, ...] = get_args(Resampling)
#: Enlarges latents instead of an image, between the two passes of hires fix.
LATENT = "latent"


def usable(installed: Mapping[str, _T], without_network: _T) -> dict[str, _T]:
    """Return the upscalers by name, the default first: the user's own, resampling, and last the bundled one.

    The bundled one, the last of ``installed``, was trained for drawn scenes only.
    """
    *own, bundled = installed.items()
    return dict(own) | dict.fromkeys(RESAMPLINGS, without_network) | dict([bundled])
