"""Binds what a client sends to a model: defaults are filled in, seeds are drawn, and what the model cannot do is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from converter.errors import ManifestError
from converter.manifest import Manifest
from server.pipeline.abilities import ADAPTER, IMAGES, OF_TASKS
from server.pipeline.boxes.box import Shape, nearest_shape
from server.pipeline.encoding.formats import FORMATS
from server.pipeline.fields import FromModel
from server.pipeline.request.adapter import check_adapter
from server.pipeline.request.addons import NO_ADDONS, KnownAddons, bind_addons
from server.pipeline.request.controls import check_controls
from server.pipeline.request.effects import without_effect
from server.pipeline.request.errors import RequestError, SentFields
from server.pipeline.request.output import require_lossy
from server.pipeline.request.painting import check_painting, painting_defaults
from server.pipeline.request.prompting import check_prompts
from server.pipeline.request.request import FIELDS, OPTIONAL_PARTS, GenerationRequest
from server.pipeline.request.sampling import Size
from server.pipeline.request.seeds import draw_seeds
from server.pipeline.request.tasks import TASKS
from server.pipeline.request.upscale import RESULTS, is_too_large
from server.pipeline.schedulers import AUTOMATIC, SCHEDULERS, NoiseSchedule, find_scheduler, usable_schedulers
from server.pipeline.upscaling.names import LATENT

_SENT = SentFields(FIELDS, required=lambda field: field.name == "prompt")


def defaults(manifest: Manifest) -> dict[str, Any]:
    """Return the default of every field that has one, by name."""
    values: dict[str, Any] = {}
    for field in FIELDS:
        from_model = field.find(FromModel)
        if from_model is not None:
            values[field.name] = from_model.value(manifest)
        elif not field.info.is_required():
            values[field.name] = field.info.default
    return values


def computed_size(asked: Size, sizes: Sequence[Shape]) -> Size:
    """Return the size to compute for an image of the requested size (see `nearest_shape`)."""
    width, height = nearest_shape(asked.width, asked.height, sizes)
    return Size(width=width, height=height)


def _scheduler(values: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, str]:
    """Return scheduler and sigmas by their own names; a joined name of A1111 ("DPM++ 2M Karras") says both.

    Raises RequestError if they contradict each other, or if the sigmas do not apply to the scheduler.
    """
    scheduler, joined = find_scheduler(values["scheduler"])
    sigmas = values["sigmas"]
    # A client's own sigmas count before those in the name of the model's default.
    if sigmas == AUTOMATIC.name:
        sigmas = joined.name
    elif joined is not AUTOMATIC and "scheduler" in sent and sigmas != joined.name:
        raise RequestError("sigmas", sigmas, f"{joined.name} with the scheduler {sent['scheduler']}; or leave it out")
    if sigmas not in scheduler.sigma_schedules:
        others = ", ".join(s.name for s in SCHEDULERS.values() if sigmas in s.sigma_schedules)
        accepted = f"{AUTOMATIC.name} with {scheduler.name}, whose timesteps are its own; {sigmas} with {others}"
        raise RequestError("sigmas", sigmas, accepted)
    return {"scheduler": scheduler.name, "sigmas": sigmas}


def _check_schedule(request: GenerationRequest, manifest: Manifest) -> None:
    """Raise RequestError unless the scheduler can make so many steps with the model's noise schedule."""
    sampling = request.sampling
    steps, scheduler = sampling.steps, sampling.scheduler
    try:
        schedule = NoiseSchedule.of(manifest)
    except ManifestError as error:
        raise RequestError("model", request.model, f"models with a known noise schedule ({error})") from error
    enough = SCHEDULERS[scheduler].enough_timesteps
    if not enough(schedule, steps, sampling.sigmas):
        most = next(n for n in range(steps, 0, -1) if enough(schedule, n, sampling.sigmas))
        trained = f"this model was trained on {schedule.num_train_timesteps} timesteps"
        raise RequestError("steps", steps, f"1 to {most} with {scheduler}: {trained}")
    usable = usable_schedulers(schedule, steps, sampling.sigmas)
    if scheduler not in usable:
        noise = schedule.prediction_type == "epsilon"
        why = "a predicted noise does not determine the image" if noise else f"{scheduler} is unstable"
        why = f"this model's images start from pure noise (zero terminal SNR), where {why}"
        raise RequestError("scheduler", scheduler, f"{', '.join(usable) or 'none'}: {why}")


def _check_strength(request: GenerationRequest) -> None:
    source, steps = request.source, request.sampling.steps
    if source is not None and request.skipped_steps == steps:
        # Rounded up: 0.0204 of 49 steps is no step.
        least = math.ceil(10_000 / steps) / 10_000
        accepted = f"{least:g} to 1" if least < 1 else "1"
        raise RequestError("strength", source.strength, f"{accepted} with steps {steps}: less makes no step")


def _check_abilities(request: GenerationRequest, manifest: Manifest) -> None:
    """Raise RequestError for what the model lacks networks for."""
    asked = (
        (OF_TASKS.get(request.task), "image"),
        (ADAPTER if request.adapter is not None else None, "adapter_image"),
        (IMAGES if request.palette is not None else None, "palette_image"),
    )
    for ability, field in asked:
        needs = None if ability is None else ability.needs(manifest)
        if needs is not None:
            raise RequestError(field, "an image", f"leave it out: {needs}")


def _check_hires(request: GenerationRequest, manifest: Manifest) -> None:
    """Raise RequestError for hires fix of an image, of too large a size, or of a strength too small for its steps."""
    hires = request.hires
    if hires is None:
        return
    others: dict[str, object | None] = {
        "an image": request.source,
        "controls": request.controls or None,
        "a refiner": request.refiner,
        "a palette_image": request.palette,
        "an inpainting model": manifest.conditions.inpainting or None,
    }
    if with_other := [name for name, part in others.items() if part is not None]:
        raise RequestError("hires_scale", hires.hires_scale, f"leave it out with {with_other[0]}")
    if hires.hires_upscaler != LATENT and (needs := IMAGES.needs(manifest)) is not None:
        raise RequestError("hires_upscaler", hires.hires_upscaler, f"{LATENT}: {needs}")
    result = request.result
    if is_too_large(result):
        raise RequestError("hires_scale", hires.hires_scale, f"{RESULTS}; this is {result}")
    whole, _ = hires.scheduled(request.sampling.steps)
    schedule = NoiseSchedule.of(manifest)
    enough = SCHEDULERS[request.sampling.scheduler].enough_timesteps
    if not enough(schedule, whole, request.sampling.sigmas):
        least = hires.made(request.sampling.steps) / schedule.num_train_timesteps
        raise RequestError(
            "hires_strength", hires.hires_strength, f"above {least:g} with so many steps, or fewer hires_steps"
        )


def _check_quality(request: GenerationRequest) -> None:
    output = request.output
    if output.format is not None:
        require_lossy(output.quality, FORMATS[output.format])


def _check_interval(request: GenerationRequest) -> None:
    first, last = request.sampling.guidance_first_sigma, request.sampling.guidance_last_sigma
    if first is not None and last is not None and last > first:
        raise RequestError(
            "guidance_last_sigma", last, f"at most guidance_first_sigma, {first:g}: noise only decreases"
        )


#: What a request is held against once it is put together; each raises RequestError.
_CHECKS: tuple[Callable[[GenerationRequest, Manifest], None], ...] = (
    lambda request, manifest: check_painting(request),
    _check_abilities,
    _check_schedule,
    lambda request, manifest: _check_strength(request),
    _check_hires,
    check_prompts,
    lambda request, manifest: check_controls(request.controls, manifest),
    lambda request, manifest: check_adapter(request.adapter, manifest),
    lambda request, manifest: _check_quality(request),
    lambda request, manifest: _check_interval(request),
)


def _parts(values: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the fields' values by part; raises RequestError for a field whose part the request does not have."""
    parts: dict[str, dict[str, Any]] = {}
    for field in FIELDS:
        if field.part is None:
            continue
        optional = OPTIONAL_PARTS.get(field.part)
        if optional is None or optional.is_asked(sent):
            part = parts.setdefault(field.part, {})
            if field.name in values:
                part[field.name] = values[field.name]
        # Clients send whole forms: a field at its default says nothing.
        elif field.name in sent and sent[field.name] != field.info.default:
            raise RequestError(field.name, sent[field.name], optional.absent)
    return parts


def _variation_defaults(task: str | None, sent: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the defaults of a request for variations: if no task is called, one of an image with an empty prompt."""
    told = "variations" if "image" in sent and sent.get("prompt") == "" else None
    return TASKS["variations"].defaults if (task or told) == "variations" else {}


def bind(
    manifest: Manifest,
    model: str | None = None,
    image_size: Shape | None = None,
    task: str | None = None,
    addons: KnownAddons = NO_ADDONS,
    **fields: Any,
) -> GenerationRequest:
    """Return the request with these fields, by name; those that are missing or None take their defaults.

    ``model`` is the installed model's name; None: the manifest's own. ``image_size`` is the upright source image's width and
    height, which an extended image needs, and which is the default with a mask. ``task`` is the one that was called; None:
    that which the fields tell. ``addons`` has the LoRAs and embeddings that there are. Raises RequestError for the first wrong
    field.
    """
    sent = _SENT.validated(fields)
    own, notes = painting_defaults(sent, image_size)
    added = bind_addons(sent, manifest, addons)
    own = {**_variation_defaults(task, sent), **added.usual, **own}
    sent |= added.prompts
    try:
        values = _SENT.validated(defaults(manifest) | own | sent) | draw_seeds(sent)
    except RequestError as error:  # what was sent is accepted already
        accepted = f"{error.accepted}; this is the default of the model {manifest.name}, so send another"
        raise RequestError(error.field, error.value, accepted) from error
    values |= {"model": model or manifest.name} | _scheduler(values, sent)
    parts = _parts(values, sent)
    computed = computed_size(Size(**parts["size"]), manifest.sizes)
    lists = {field.name: values[field.name] for field in FIELDS if field.item is not None and field.name in values}
    lists |= {"loras": added.loras, "embeddings": added.embeddings}
    named = {} if task is None else {"task": task}
    request = GenerationRequest.model_validate(
        {**named, "model": values["model"], "computed": computed, "notes": (*added.notes, *notes), **parts, **lists}
    )
    if request.hires is not None and "hires_strength" not in sent:
        usual = {"hires_strength": request.hires.usual_strength(windows=request.in_windows(manifest))}
        request = request.model_copy(update={"hires": request.hires.model_copy(update=usual)})
    for check in _CHECKS:
        check(request, manifest)
    return request.model_copy(update={"notes": (*request.notes, *without_effect(request, sent, manifest))})
