"""What every dialect turns its wire format into: one immutable request, checked against the model that will run it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from converter.errors import AnemoneError, ManifestError
from converter.folder import Manifest
from server.pipeline.schedulers import SCHEDULERS, NoiseSchedule, UnknownScheduler, find_scheduler, fitting

STEPS = (1, 150)
#: As far as A1111's slider goes; at 1 and below the negative prompt plays no part.
GUIDANCE = (0.0, 30.0)
PICTURES = (1, 8)
SEEDS = (0, 2**32 - 1)
#: Characters; CLIP reads 75 tokens, and a longer text than this is a mistake or an attack on the tokenizer.
LONGEST_PROMPT = 10_000
DEFAULT_STRENGTH = 0.75
VARIATION_STRENGTHS = (0.0, 1.0)
#: Whose random numbers: diffusers' (PyTorch on the CPU), Apple's pipelines' (NumPy's old generator), and AUTOMATIC1111's
#: (PyTorch on an NVIDIA GPU). Pictures made elsewhere are made again with theirs.
RNGS = ("torch", "numpy", "cuda")


class RequestError(AnemoneError):
    """A field of a request is not acceptable."""

    def __init__(self, field: str, value: object, accepted: str) -> None:
        shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
        super().__init__(f"{field} is {shown}; accepted: {accepted}")
        self.field, self.value, self.accepted = field, value, accepted


class PictureSeeds(NamedTuple):
    """The seed of a picture, and that of the noise it is turned towards; None where it is not turned."""

    seed: int
    variation: int | None


@dataclass(frozen=True)
class GenerationRequest:
    """A picture, or several, to make. Sizes are pixels.

    seed: of the first picture; what the others use is told by `picture_seeds`.
    scheduler: a name of SCHEDULERS.
    model: the installed model it was bound to when it was accepted.
    strength: how much of the first picture to replace, above 0 to 1; None makes pictures from noise (txt2img).
    image: the first picture as encoded bytes; None for txt2img.
    rng: which generator draws the noise, one of RNGS.
    seeds: a seed for every picture; None where they follow from ``seed``.
    variation_seed, variation_strength: the noise of another seed, and how far to turn the starting noise towards it,
        0 (not at all) to 1 (all the way), as A1111 does.
    """

    prompt: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    scheduler: str
    model: str
    negative_prompt: str = ""
    n: int = 1
    strength: float | None = None
    image: bytes | None = None
    rng: str = "torch"
    seeds: tuple[int, ...] | None = None
    variation_seed: int | None = None
    variation_strength: float = 0.0

    @property
    def skipped_steps(self) -> int:
        """How many of the first steps img2img leaves out; 0 for txt2img."""
        return 0 if self.strength is None else _skipped_steps(self.steps, self.strength)

    @property
    def picture_seeds(self) -> tuple[PictureSeeds, ...]:
        """The seeds of each picture, as A1111 counts them (processing.py): without variation seed + i; with it the seed
        stays and the variation's seed is counted up.
        """
        varied = self.variation_seed if self.variation_strength > 0 else None
        if self.seeds is not None:
            seeds = self.seeds
        else:
            seeds = tuple((self.seed + (i if varied is None else 0)) % 2**32 for i in range(self.n))
        variations = [None if varied is None else (varied + i) % 2**32 for i in range(self.n)]
        return tuple(map(PictureSeeds, seeds, variations))


def _skipped_steps(steps: int, strength: float) -> int:
    return steps - int(steps * strength)


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


def _check_schedule(manifest: Manifest, model: str, scheduler: str, steps: int) -> None:
    """Raise RequestError unless the scheduler can take so many steps of the model's noise schedule."""
    try:
        schedule = NoiseSchedule.of(manifest)
    except ManifestError as error:
        raise RequestError("model", model, f"models whose noise schedule we know ({error})") from error
    enough = SCHEDULERS[scheduler].enough_timesteps
    if not enough(schedule, steps):
        most = next(n for n in range(steps, 0, -1) if enough(schedule, n))
        trained = f"this model was trained on {schedule.num_train_timesteps} timesteps"
        raise RequestError("steps", steps, f"{STEPS[0]} to {most} with {scheduler}: {trained}")
    usable = fitting(schedule, steps)
    if scheduler not in usable:
        noise = schedule.prediction_type == "epsilon"
        why = "noise, which it predicts, says nothing of them" if noise else f"{scheduler} is unstable"
        why = f"this model's images start from pure noise (zero terminal SNR), where {why}"
        raise RequestError("scheduler", scheduler, f"{', '.join(usable) or 'none'}: {why}")


def _drawn(field: str, seed: int | None) -> int:
    """The seed, or a new one for None and -1, so that the job knows it from the start."""
    if seed is None or seed == -1:
        return secrets.randbelow(SEEDS[1] + 1)
    _within(field, seed, SEEDS)
    return seed


def _counted(n: int | None, seed: int | None, seeds: Sequence[int] | None) -> tuple[int, int, tuple[int, ...] | None]:
    """How many pictures, the first one's seed, and each one's where they were given; raises RequestError."""
    if seeds is None:
        n = 1 if n is None else n
        _within("n", n, PICTURES)
        return n, _drawn("seed", seed), None
    if not PICTURES[0] <= len(seeds) <= PICTURES[1]:
        raise RequestError("seeds", seeds, f"{PICTURES[0]} to {PICTURES[1]} seeds, one for each picture")
    if n is not None and n != len(seeds):
        raise RequestError("n", n, f"the number of seeds, {len(seeds)}, or nothing")
    if seed not in (None, -1):
        raise RequestError("seed", seed, "nothing beside seeds, which name one for every picture")
    drawn = tuple(_drawn("seeds", each) for each in seeds)
    return len(drawn), drawn[0], drawn


def _variation_seed(seed: int | None, strength: float) -> int | None:
    """The variation's seed; a new one only where it plays a part (A1111's clients send -1 with a strength of 0)."""
    _within("variation_strength", strength, VARIATION_STRENGTHS)
    return None if strength == 0 and seed in (None, -1) else _drawn("variation_seed", seed)


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
    model: str | None = None,
    rng: str | None = None,
    seeds: Sequence[int] | None = None,
    variation_seed: int | None = None,
    variation_strength: float | None = None,
) -> GenerationRequest:
    """The request with the model's defaults where a field is None; raises RequestError naming the first bad field.

    ``model`` is the name ``manifest`` is installed by; None takes the manifest's own. Seeds of None or -1 are drawn here,
    so that the job knows them from the start.
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
    n, seed, seeds = _counted(n, seed, seeds)
    rng = RNGS[0] if rng is None else rng
    if rng not in RNGS:
        raise RequestError("rng", rng, ", ".join(RNGS))
    variation_strength = 0.0 if variation_strength is None else variation_strength
    variation_seed = _variation_seed(variation_seed, variation_strength)
    try:
        scheduler = find_scheduler(manifest.defaults.scheduler if scheduler is None else scheduler).name
    except UnknownScheduler as error:
        raise RequestError("scheduler", scheduler, ", ".join(SCHEDULERS)) from error
    model = manifest.name if model is None else model
    _check_schedule(manifest, model, scheduler, steps)
    if image is not None:
        strength = DEFAULT_STRENGTH if strength is None else strength
        if not 0 < strength <= 1:
            raise RequestError("strength", strength, "above 0 and at most 1")
        if _skipped_steps(steps, strength) == steps:
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
        model=model,
        negative_prompt=negative_prompt or "",
        n=n,
        strength=strength,
        image=image,
        rng=rng,
        seeds=seeds,
        variation_seed=variation_seed,
        variation_strength=float(variation_strength),
    )


def as_json(request: GenerationRequest) -> dict[str, Any]:
    """The request's fields for a job's JSON and the database; the picture itself stays out of it."""
    found = {name: getattr(request, name) for name in GenerationRequest.__dataclass_fields__ if name != "image"}
    return {name: value for name, value in found.items() if value is not None}


def from_json(found: dict[str, Any], image: bytes | None) -> GenerationRequest:
    """The request that `as_json` told, with its picture."""
    seeds = found.get("seeds")
    return GenerationRequest(**{**found, "seeds": None if seeds is None else tuple(seeds)}, image=image)
