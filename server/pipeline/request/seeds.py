"""The number of a request's images, and the seeds of their noise."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from server.pipeline.fields import Part, named
from server.pipeline.limits import Count, OneOf, Real, Whole, Wholes, Within, unless_stored
from server.pipeline.request.errors import RequestError

_IMAGES = Within(1, 10)
_ONE_FOR_EACH = Count(_IMAGES.low, _IMAGES.high, "seeds, one for each image")
#: A1111's names of generators; it has none for NumPy's, which Apple's pipelines use.
_INFOTEXT_RNGS = {"torch": "CPU", "numpy": "NumPy", "cuda": "NV"}
#: Random number generators: diffusers' (PyTorch on the CPU), Apple's pipelines' (NumPy's old generator), and AUTOMATIC1111's
#: (PyTorch on an NVIDIA GPU). With these, images made by that software can be reproduced.
RNGS = tuple(_INFOTEXT_RNGS)
_TO_DRAW = (None, -1)


@dataclass(frozen=True)
class _Seed(Within):
    """A seed, or -1 for a random one."""

    def accepts(self, value: float) -> bool:
        """Return whether the value is -1 or a seed."""
        return value == -1 or super().accepts(value)

    def __str__(self) -> str:
        return f"{super().__str__()}, or -1 for a random one"

    def add_to(self, schema: dict[str, Any]) -> None:
        """Write the range, which includes -1."""
        schema.update(minimum=-1, maximum=self.high)


_SEED = _Seed(0, 2**32 - 1)


def _seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if not all(map(_SEED.accepts, seeds)):
        raise ValueError(str(_SEED))
    return seeds


class ImageSeeds(NamedTuple):
    """The seed of an image, and the seed of its variation's noise; None without variation."""

    seed: int
    variation: int | None

    def of_box(self, number: int) -> ImageSeeds:
        """Return the seeds of a box of the image, from 0; they count up, as in A1111's script for outpainting."""
        return self._replace(seed=(self.seed + number) % 2**32)


class Seeds(Part):
    """The number of images, and the seeds of their noise.

    seed: that of the first image; `of_images` has the seeds of all.
    seeds: a seed for every image; None if they follow from ``seed``.
    """

    seed: Annotated[Whole, _SEED] = Field(
        description="-1 or left out: a random one. The same seed and settings give the same image on the same machine and "
        "compute unit"
    )
    n: Annotated[Whole, _IMAGES] = Field(1, description="How many images; image i uses seed + i")
    seeds: Annotated[Wholes, unless_stored(_seeds), _ONE_FOR_EACH] | None = Field(
        None, description="A seed for each image, instead of seed and n"
    )
    variation_seed: Annotated[Whole, _SEED] | None = Field(
        None,
        description="The seed of the variation's noise; -1 or left out: a random one if variation_strength is above 0",
    )
    variation_strength: Annotated[Real, Within(0.0, 1.0)] = Field(
        0.0,
        description="How far to move from seed's noise towards variation_seed's, from 0 (not at all) to 1 (completely); "
        "above 0 all images use seed, and image i uses variation_seed + i, as in A1111",
    )
    rng: Annotated[str, OneOf(RNGS), named("RNG", _INFOTEXT_RNGS, synonyms={"GPU": "cuda"})] = Field(
        RNGS[0],
        description="The random number generator: that of diffusers (torch: PyTorch on the CPU; the default), of "
        "Apple's pipelines (numpy), or of AUTOMATIC1111 on an NVIDIA GPU (cuda)",
    )

    @property
    def of_images(self) -> tuple[ImageSeeds, ...]:
        """The seeds of each image, as A1111 counts them (processing.py).

        Without variation, image i has seed + i; with variation, it has seed and variation seed + i.
        """
        varied = self.variation_seed if self.variation_strength > 0 else None
        seeds = self.seeds or tuple((self.seed + (i if varied is None else 0)) % 2**32 for i in range(self.n))
        variations = [None if varied is None else (varied + i) % 2**32 for i in range(self.n)]
        return tuple(map(ImageSeeds, seeds, variations))


def _drawn(seed: int | None) -> int:
    """Return the seed, or a random one for None and -1. It is drawn when a request is accepted, so that it is stored with the job."""
    return secrets.randbelow(2**32) if seed is None or seed == -1 else seed


def draw_seeds(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return n and every seed of a request; raises RequestError if they contradict one another."""
    n, seed, seeds = asked.get("n"), asked.get("seed"), asked.get("seeds")
    if seeds is not None:
        if n not in (None, len(seeds)):
            raise RequestError("n", n, f"the number of seeds, {len(seeds)}; or leave it out")
        if seed not in _TO_DRAW:
            raise RequestError("seed", seed, "leave it out: seeds has a seed for every image")
        seeds = tuple(map(_drawn, seeds))
        drawn = {"seeds": seeds, "n": len(seeds), "seed": seeds[0]}
    else:
        drawn = {"seed": _drawn(seed)}
    # A1111's clients send -1 with a strength of 0.
    variation = asked.get("variation_seed")
    unused = variation in _TO_DRAW and not asked.get("variation_strength")
    return drawn | {"variation_seed": None if unused else _drawn(variation)}
