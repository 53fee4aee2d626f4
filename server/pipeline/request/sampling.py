"""How images are denoised: their size, the steps and their guidance, and further passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from converter.manifest import Manifest
from converter.networks.registry import VAE_ENCODER
from converter.options import LARGEST_SIDE, SMALLEST_SIDE
from converter.sources.configs import MOST_GUIDANCE, MOST_STEPS
from server.pipeline.fields import FromModel, Infotext, Part, plain, unless
from server.pipeline.limits import Real, Whole, Within, unless_stored
from server.pipeline.request.conditions import NAME
from server.pipeline.schedulers import (
    AUTOMATIC,
    SCHEDULERS,
    SIGMA_SCHEDULES,
    UnknownScheduler,
    find_scheduler,
    find_sigmas,
)
from server.pipeline.upscaling.names import LATENT, a1111_name, from_a1111


def _known_scheduler(name: str) -> str:
    try:
        find_scheduler(name)
    except UnknownScheduler as error:
        raise ValueError(", ".join(SCHEDULERS)) from error
    return name


def _known_sigmas(name: str) -> str:
    try:
        return find_sigmas(name).name
    except UnknownScheduler as error:
        raise ValueError(", ".join(SIGMA_SCHEDULES)) from error


#: Pixels of an image's side.
SIDE = Within(SMALLEST_SIDE, LARGEST_SIDE)


class Extent(Part):
    """The width and height of an image, of any size."""

    width: Whole
    height: Whole

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class Size(Extent):
    """The width and height that a client asks for."""

    width: Annotated[Whole, SIDE, FromModel(lambda manifest: manifest.sizes[0][0])] = Field(
        description="Pixels; where the model was not converted for the size, the nearest one is computed and scaled. Left out: "
        "the model's own, or with a mask the image's"
    )
    height: Annotated[Whole, SIDE, FromModel(lambda manifest: manifest.sizes[0][1])] = Field(
        description="Pixels; as width"
    )


class SigmaInterval(NamedTuple):
    """Noise levels from ``last`` to ``first``, in units of the ratio of noise to signal; None: no bound."""

    first: float | None = None
    last: float | None = None

    def contains(self, sigma: float) -> bool:
        """Return whether the noise level is one of these; both bounds are."""
        return (self.first is None or sigma <= self.first) and (self.last is None or sigma >= self.last)


class Sampling(Part):
    """How an image is denoised. ``scheduler`` is a name of SCHEDULERS, ``sigmas`` one of SIGMA_SCHEDULES that applies to it."""

    steps: Annotated[
        Whole, Within(1, MOST_STEPS), FromModel(lambda manifest: manifest.defaults.steps), Infotext("Steps")
    ] = Field(description="Denoising steps")
    # At 1 and below the negative prompt has no effect.
    guidance_scale: Annotated[
        Real,
        Within(0.0, MOST_GUIDANCE),
        FromModel(lambda manifest: manifest.defaults.guidance_scale),
        Infotext("CFG scale", plain),
    ] = Field(description="How closely to follow the prompt")
    scheduler: Annotated[
        str, unless_stored(_known_scheduler), FromModel(lambda manifest: manifest.defaults.scheduler)
    ] = Field(max_length=NAME, description=f"One of {', '.join(SCHEDULERS)} (diffusers' and A1111's names work too)")
    sigmas: Annotated[str, unless_stored(_known_sigmas)] = Field(
        AUTOMATIC.name,
        max_length=NAME,
        description=f"The noise levels of the steps: {', '.join(SIGMA_SCHEDULES)} (A1111's schedule types work too); "
        "automatic: the model's own spacing",
    )
    guidance_rescale: Annotated[Real, Within(0.0, 1.0), Infotext("Guidance rescale", unless(0.0))] = Field(
        0.0,
        description="How far to bring the contrast of a guided image back to that without guidance (Lin et al. 2023)",
    )
    guidance_first_sigma: Annotated[Real, Within(0.0, 10_000.0), Infotext("Guidance first sigma", plain)] | None = (
        Field(None, description="Guide only steps of at most this noise level (sigma); left out: from the first step")
    )
    guidance_last_sigma: Annotated[Real, Within(0.0, 10_000.0), Infotext("Guidance last sigma", plain)] | None = Field(
        None, description="Guide only steps of at least this noise level (sigma); left out: to the last step"
    )

    @property
    def guidance_interval(self) -> SigmaInterval:
        """The noise levels of the steps that are guided (Kynkäänniemi et al. 2024)."""
        return SigmaInterval(self.guidance_first_sigma, self.guidance_last_sigma)

    def is_guided(self, manifest: Manifest) -> bool:
        """Return whether steps compute a second row, for the negative prompt (classifier-free guidance).

        Models that take the guidance scale as an input (latent consistency models) do not need it.
        """
        return self.guidance_scale > 1 and manifest.conditions.guidance_width is None


def _usual_upscaler(manifest: Manifest) -> str:
    return "lanczos" if VAE_ENCODER.name in manifest.networks else LATENT


class Hires(Part):
    """A second pass that makes the image larger (A1111's hires fix)."""

    hires_scale: Annotated[Real, Within(1.0, 4.0, above=True), Infotext("Hires upscale", plain)] = Field(
        description="How much larger the second pass makes the image"
    )
    hires_upscaler: Annotated[str, FromModel(_usual_upscaler), Infotext("Hires upscaler", a1111_name, from_a1111)] = (
        Field(max_length=NAME, description="What enlarges the image between the passes (see capabilities)")
    )
    hires_steps: Annotated[Whole, Within(1, 150), Infotext("Hires steps")] | None = Field(
        None, description="Steps that the second pass makes; left out: as many as the first"
    )
    hires_strength: Annotated[Real, Within(0.0, 1.0, above=True), Infotext("Denoising strength", plain)] = Field(
        0.3,
        description="How much the second pass changes; left out: 0.3, 0.2 at a size that was not converted, 0.7 with latent",
    )

    absent: ClassVar[str] = "leave it out without hires_scale"

    @classmethod
    def is_asked(cls, sent: Mapping[str, Any]) -> bool:
        """Return whether a scale is sent; the upscaler has a default."""
        return "hires_scale" in sent

    def usual_strength(self, *, windows: bool) -> float:
        """Return the strength for requests without one; ``windows``: whether the second pass works on parts of the image.

        Interpolated latents are blurred, and only a strong pass draws edges on them. Each window follows the whole prompt:
        at 0.3 the bundled model drew a second circle in one of them, at 0.2 it did not.
        """
        if self.hires_upscaler == LATENT:
            return 0.7
        return 0.2 if windows else 0.3

    def made(self, steps: int) -> int:
        """Return how many steps the second pass makes; ``steps`` is the first pass's number."""
        return self.hires_steps or steps

    def scheduled(self, steps: int) -> tuple[int, int]:
        """Return the steps of the schedule, and how many of them the second pass leaves out, as A1111 counts them.

        ``steps`` is the first pass's number. The second pass makes all the steps that are asked for (setup_img2img_steps).
        """
        made = self.made(steps)
        whole = int(made / min(self.hires_strength, 0.999))
        return whole, whole - made


class Refiner(Part):
    """A model that takes over the last steps (SDXL's refiner)."""

    refiner: Annotated[str, Infotext("Refiner")] = Field(max_length=NAME, description="An installed refiner model")
    refiner_switch: Annotated[Real, Within(0.0, 1.0), Infotext("Refiner switch at", plain)] = Field(
        0.8, description="The share of the steps after which it takes over"
    )

    absent: ClassVar[str] = "leave it out without a refiner"

    def switch_timestep(self, num_train_timesteps: int) -> int:
        """Return the timestep below which it takes over: diffusers' denoising_end of the base and denoising_start."""
        return round(num_train_timesteps - self.refiner_switch * num_train_timesteps)
