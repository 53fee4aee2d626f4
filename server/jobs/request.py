"""What every dialect turns its wire format into: one immutable request, checked against the model that will run it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from converter.errors import AnemoneError
from converter.folder import Manifest
from server.pipeline.schedulers import SCHEDULERS, UnknownScheduler, find_scheduler

STEPS = (1, 150)
#: As far as A1111's slider goes; at 1 and below the negative prompt plays no part.
GUIDANCE = (0.0, 30.0)
PICTURES = (1, 8)
SEEDS = (0, 2**32 - 1)
#: Characters; CLIP reads 75 tokens, and a longer text than this is a mistake or an attack on the tokenizer.
LONGEST_PROMPT = 10_000
DEFAULT_STRENGTH = 0.75


class RequestError(AnemoneError):
    """A field of a request is not acceptable."""

    def __init__(self, field: str, value: object, accepted: str) -> None:
        shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
        super().__init__(f"{field} is {shown}; accepted: {accepted}")
        self.field, self.value, self.accepted = field, value, accepted


@dataclass(frozen=True)
class GenerationRequest:
    """A picture, or several, to make. Sizes are pixels.

    seed: of the first picture; picture i of n uses seed + i.
    strength: how much of the first picture to replace, above 0 to 1; None makes pictures from noise (txt2img).
    image: the first picture as encoded bytes; None for txt2img.
    """

    prompt: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    scheduler: str
    negative_prompt: str = ""
    n: int = 1
    strength: float | None = None
    image: bytes | None = None


def _within(field: str, value: float, limits: tuple[float, float]) -> None:
    low, high = limits
    if not low <= value <= high:
        raise RequestError(field, value, f"{low} to {high}")


def check_size(width: int, height: int, sizes: tuple[tuple[int, int], ...]) -> None:
    """Raise RequestError unless the model has this size."""
    if (width, height) not in sizes:
        accepted = ", ".join(f"{w}x{h}" for w, h in sizes)
        field = "width" if width not in {w for w, _ in sizes} else "height"
        raise RequestError(
            field, width if field == "width" else height, f"the sizes this model was converted for: {accepted}"
        )


def make_request(
    manifest: Manifest,
    *,
    prompt: str,
    negative_prompt: str | None = None,
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int | None = None,
    scheduler: str | None = None,
    n: int | None = None,
    strength: float | None = None,
    image: bytes | None = None,
) -> GenerationRequest:
    """The request with the model's defaults where a field is None; raises RequestError naming the first bad field.

    A seed of None or -1 is drawn here, so that the job knows it from the start.
    """
    for field, text in (("prompt", prompt), ("negative_prompt", negative_prompt or "")):
        if any((ord(c) < 32 and c not in "\t\r\n") or 0xD800 <= ord(c) < 0xE000 for c in text):
            raise RequestError(field, text, "text without control characters or halves of surrogate pairs")
        if len(text) > LONGEST_PROMPT:
            raise RequestError(field, f"{len(text)} characters", f"up to {LONGEST_PROMPT} characters")
    default = manifest.sizes[0]
    width, height = default[0] if width is None else width, default[1] if height is None else height
    check_size(width, height, manifest.sizes)
    steps = manifest.defaults.steps if steps is None else steps
    _within("steps", steps, STEPS)
    guidance_scale = manifest.defaults.guidance_scale if guidance_scale is None else guidance_scale
    _within("guidance_scale", guidance_scale, GUIDANCE)
    n = 1 if n is None else n
    _within("n", n, PICTURES)
    if seed is None or seed == -1:
        seed = secrets.randbelow(SEEDS[1] + 1)
    _within("seed", seed, SEEDS)
    try:
        scheduler = find_scheduler(manifest.defaults.scheduler if scheduler is None else scheduler).name
    except UnknownScheduler as error:
        raise RequestError("scheduler", scheduler, ", ".join(SCHEDULERS)) from error
    if image is not None:
        strength = DEFAULT_STRENGTH if strength is None else strength
        if not 0 < strength <= 1:
            raise RequestError("strength", strength, "above 0 and at most 1")
        if int(steps * strength) < 1:
            least = -(-1 // strength)
            raise RequestError(
                "strength", strength, f"enough for one step: at {steps} steps, {1 / steps:.3g}; or {least:.0f} steps"
            )
    elif strength is not None:
        raise RequestError("strength", strength, "nothing without an image; it belongs to img2img")
    return GenerationRequest(
        prompt=prompt,
        width=width,
        height=height,
        steps=steps,
        guidance_scale=float(guidance_scale),
        seed=seed,
        scheduler=scheduler,
        negative_prompt=negative_prompt or "",
        n=n,
        strength=strength,
        image=image,
    )


def as_json(request: GenerationRequest) -> dict[str, Any]:
    """The request's fields for a job's JSON and the database; the picture itself stays out of it."""
    found = {name: getattr(request, name) for name in GenerationRequest.__dataclass_fields__ if name != "image"}
    return {name: value for name, value in found.items() if value is not None}
