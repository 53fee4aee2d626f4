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
#: A1111's names of these. It has several latent ones, such as "Latent (bicubic)", and the name None for its own resizing.
_A1111 = {LATENT: "Latent", "lanczos": "Lanczos", "nearest": "Nearest"}


def usable(installed: Mapping[str, _T], without_network: _T) -> dict[str, _T]:
    """Return the upscalers by name, the default first: the user's own, resampling, and last the bundled one.

    The bundled one, the last of ``installed``, was trained for drawn scenes only.
    """
    *own, bundled = installed.items()
    return dict(own) | dict.fromkeys(RESAMPLINGS, without_network) | dict([bundled])


def a1111_name(upscaler: str) -> str:
    """Return the name that AUTOMATIC1111 has for an upscaler; those with a network keep theirs."""
    return _A1111.get(upscaler, upscaler)


def from_a1111(name: str) -> str:
    """Return the upscaler that AUTOMATIC1111 names so; its latent ones are one here, and None resizes with Lanczos."""
    known = {title.lower(): upscaler for upscaler, title in _A1111.items()} | {"none": "lanczos"}
    return LATENT if name.lower().startswith("latent (") else known.get(name.lower(), name)
