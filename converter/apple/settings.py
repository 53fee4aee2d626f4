"""Settings that Apple's packages lack: from options, or derived by a rule if there is one."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from converter.apple.model import AppleModel
from converter.apple.tokenizer import Vocabulary, find_vocabulary
from converter.errors import CheckpointError, quoted
from converter.families.schedule import read_schedule
from converter.manifest import GUIDED, STANDARD, UNGUIDED, Defaults, SchedulerSettings
from converter.sources.config_tables import PREDICTION_TYPES, SCHEDULER
from converter.sources.configs import read_json
from converter.sources.single_file import SCALING_FACTORS
from converter.sources.snapshot import folder_name

_T = TypeVar("_T")
_TRUTH = {"true": True, "false": False}
_MISSING = " is missing; accepted: "
_SPACINGS: tuple[str, ...] = SCHEDULER["timestep_spacing"].accepted
#: Accepted values for each of AppleSettings' fields.
ACCEPTED = {
    "name": "the model's name",
    "prediction_type": ", ".join(PREDICTION_TYPES),
    "vae_scaling_factor": "a number above 0, such as 0.18215 (Stable Diffusion 1 and 2) or 0.13025 (XL)",
    "scheduler_config": "the model's scheduler_config.json, as diffusers saves it",
    "tokenizer": "a folder with the model's vocab.json and merges.txt (or tokenizer.json), or with tokenizer and tokenizer_2 in it",
    "zeros_for_no_prompt": "true or false",
    "steps": "a whole number from 1 on",
    "guidance_scale": "a number from 0 on",
}
#: The noise schedule of all published Stable Diffusion models (their scheduler_config.json). SDXL's say a timestep_spacing.
_SCHEDULE = SchedulerSettings(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    timestep_spacing=None,
    steps_offset=1,
    set_alpha_to_one=False,
)


@dataclass(frozen=True)
class _Named:
    """Settings of a published model known by its name, from its scheduler_config.json and its model card."""

    prediction_type: str
    timestep_spacing: str | None = None
    defaults: Defaults = STANDARD


#: By the last part of the Hugging Face id. Only Stable Diffusion 2's models differ in their prediction type.
_NAMED = {
    "stable-diffusion-2": _Named("v_prediction"),
    "stable-diffusion-2-1": _Named("v_prediction"),
    "stable-diffusion-2-base": _Named("epsilon"),
    "stable-diffusion-2-1-base": _Named("epsilon"),
    "sd-turbo": _Named("epsilon", "trailing", UNGUIDED),
    "sdxl-turbo": _Named("epsilon", "trailing", UNGUIDED),
}


class AppleSettingsError(CheckpointError):
    """Settings are missing or wrong; ``problems`` has a line for each, with its option."""

    def __init__(self, folder: Path, problems: tuple[str, ...]) -> None:
        lines = "".join(f"\n  {problem}" for problem in problems)
        about = (
            "the packages lack settings that a model needs. Give these once; they are then kept next to the packages"
            if any(_MISSING in problem for problem in problems)
            else "it is not used with these settings"
        )
        super().__init__(f"{folder}: {about}:{lines}")
        self.problems = problems


@dataclass(frozen=True)
class AppleSettings:
    """Settings that a folder of Apple's lacks. "A published model" has its family's published widths.

    name: the model's name; None takes the packages' version (the --model-version they were converted with).
    prediction_type: the UNet's; None takes scheduler_config's, that of the packages' metadata, or epsilon for published
        models; Stable Diffusion 2 needs it unless the model's name is known or it is an inpainting model.
    vae_scaling_factor: factor of the latents; None takes that of the packages' metadata, or the family's for published models.
    scheduler_config: a scheduler_config.json with the noise schedule; None takes that of the packages' metadata, or the
        published models'.
    tokenizer: a folder with vocab.json and merges.txt; None takes those in the folder (in it, its tokenizer or its
        Resources), or CLIP's for published models.
    zeros_for_no_prompt: whether an empty negative prompt means states of zeros; None takes what the packages' metadata says,
        or yes for SDXL, no for others.
    steps, guidance_scale: defaults of requests; None takes those of the packages' metadata, 20 and 7.5, or for few-step
        models of known name or kind the values that they were made for.
    """

    name: str | None = None
    prediction_type: str | None = None
    vae_scaling_factor: float | None = None
    scheduler_config: Path | None = None
    tokenizer: Path | None = None
    zeros_for_no_prompt: bool | None = None
    steps: int | None = None
    guidance_scale: float | None = None


def option(field: str) -> str:
    """Return a field of AppleSettings as an option of the command line."""
    return f"--{field.replace('_', '-')}"


@dataclass(frozen=True)
class Settled:
    """AppleSettings with a value for everything."""

    name: str
    prediction_type: str
    vae_scaling_factor: float
    schedule: SchedulerSettings
    vocabulary: Vocabulary
    zeros_for_no_prompt: bool
    defaults: Defaults


def _wrong(field: str, value: object) -> str:
    return f"{option(field)} is {value!r}; accepted: {ACCEPTED[field]}"


def _missing(field: str) -> str:
    return f"{option(field)}{_MISSING}{ACCEPTED[field]}"


def _numbers_out_of_range(settings: AppleSettings) -> list[str]:
    """Return a sentence for each wrong value that can be checked without reading a file."""
    scale, guidance = settings.vae_scaling_factor, settings.guidance_scale
    valid = {
        "name": settings.name is None or bool(settings.name.strip()),
        "prediction_type": settings.prediction_type in (None, *PREDICTION_TYPES),
        "vae_scaling_factor": scale is None or (math.isfinite(scale) and scale > 0),
        "steps": settings.steps is None or settings.steps >= 1,
        "guidance_scale": guidance is None or (math.isfinite(guidance) and guidance >= 0),
    }
    return [_wrong(field, getattr(settings, field)) for field, is_valid in valid.items() if not is_valid]


def _stated_scale(text: str, problems: list[str]) -> float | None:
    """Return the scaling factor that the decoder's metadata says; adds a problem if that is none."""
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if math.isfinite(scale) and scale > 0:
        return scale
    problems.append(f"{_wrong('vae_scaling_factor', text)} (so the decoder's metadata says)")
    return None


def _stated_json(text: str, kind: type[_T], field: str, problems: list[str]) -> _T | None:
    """Return what the UNet's metadata says as JSON; adds a problem if that cannot be."""
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError:
        problems.append(f"{_missing(field)} (the UNet's metadata says {quoted(text)})")
        return None


def _stated_schedule(model: AppleModel, usual: SchedulerSettings, problems: list[str]) -> SchedulerSettings:
    """Return the noise schedule with what the UNet's metadata says of it; adds a problem if that cannot be."""
    stated = model.stated
    if stated.noise_schedule is not None:
        whole = _stated_json(stated.noise_schedule, SchedulerSettings, "scheduler_config", problems)
        return usual if whole is None else whole
    said: dict[str, Any] = {
        "timestep_spacing": stated.timestep_spacing,
        "steps_offset": stated.steps_offset,
        "set_alpha_to_one": stated.set_alpha_to_one,
    }
    said = {key: text for key, text in said.items() if text is not None}
    try:
        if "steps_offset" in said:
            said["steps_offset"] = int(said["steps_offset"])
        if "set_alpha_to_one" in said:
            said["set_alpha_to_one"] = _TRUTH[said["set_alpha_to_one"].lower()]
        if (spacing := stated.timestep_spacing) is not None and spacing not in _SPACINGS:
            raise ValueError(spacing)
    except (ValueError, KeyError):
        words = ", ".join(f"{key} {text!r}" for key, text in said.items())
        problems.append(f"{_missing('scheduler_config')} (the UNet's metadata says {words})")
        return usual
    return replace(usual, **said)


def settle(model: AppleModel, settings: AppleSettings) -> Settled:
    """Return the settings with defaults for the missing ones; raises AppleSettingsError listing all problems."""
    problems = _numbers_out_of_range(settings)
    named = _NAMED.get(re.split("[/_]", model.version)[-1]) if model.published else None
    prediction = settings.prediction_type
    stated = "leading" if model.family.startswith("sdxl") else None
    spacing = stated if named is None else named.timestep_spacing
    schedule = replace(_SCHEDULE, timestep_spacing=spacing)
    if settings.scheduler_config is None:
        schedule = _stated_schedule(model, schedule, problems)
    else:
        try:
            if not settings.scheduler_config.exists():
                raise CheckpointError("it does not exist")
            schedule, predicted = read_schedule("it", read_json(settings.scheduler_config))
            prediction = prediction or predicted
        except CheckpointError as error:
            problems.append(f"{_wrong('scheduler_config', str(settings.scheduler_config))} ({error})")

    if prediction is None and model.stated.prediction_type is not None:
        prediction = model.stated.prediction_type
        if prediction not in PREDICTION_TYPES:
            problems.append(f"{_wrong('prediction_type', prediction)} (so the UNet's metadata says)")
    if prediction is None and named is not None:
        prediction = named.prediction_type
    if prediction is None and model.published and (model.family != "sd2" or model.inpainting):
        prediction = "epsilon"
    if prediction is None:
        problems.append(_missing("prediction_type"))

    scale = settings.vae_scaling_factor
    if scale is None and model.stated.vae_scaling_factor is not None:
        scale = _stated_scale(model.stated.vae_scaling_factor, problems)
    elif scale is None and model.published:
        scale = SCALING_FACTORS[model.family]
    if scale is None and model.stated.vae_scaling_factor is None:
        problems.append(_missing("vae_scaling_factor"))

    stated_defaults = None
    if model.stated.defaults is not None and None in (settings.steps, settings.guidance_scale):
        stated_defaults = _stated_json(model.stated.defaults, Defaults, "steps", problems)

    vocabulary = None
    try:
        vocabulary = find_vocabulary(model, settings.tokenizer)
    except CheckpointError as error:
        problems.append(f"{_wrong('tokenizer', str(settings.tokenizer or model.folder))} ({error})")
    else:
        if vocabulary is None:
            problems.append(_missing("tokenizer"))
    if problems or prediction is None or scale is None or vocabulary is None:
        raise AppleSettingsError(model.folder, tuple(problems))

    usual = stated_defaults or (GUIDED if model.guidance_width else STANDARD if named is None else named.defaults)
    zeros = settings.zeros_for_no_prompt
    if zeros is None:
        zeros = _TRUTH.get(model.stated.zeros_for_no_prompt or "", model.family == "sdxl")
    return Settled(
        name=settings.name or model.version or folder_name(model.folder),
        prediction_type=prediction,
        vae_scaling_factor=float(scale),
        schedule=schedule,
        vocabulary=vocabulary,
        zeros_for_no_prompt=zeros,
        defaults=Defaults(
            steps=usual.steps if settings.steps is None else settings.steps,
            guidance_scale=float(usual.guidance_scale if settings.guidance_scale is None else settings.guidance_scale),
            scheduler=usual.scheduler,
        ),
    )
