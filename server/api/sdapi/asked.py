"""What a body asks for, in our fields."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from converter.manifest import Manifest
from server.api.sdapi.bodies import Making, Txt2ImgBody
from server.api.sdapi.fit import Fit
from server.api.sdapi.names import SAME
from server.api.sdapi.recalled import Recalled
from server.api.sdapi.sampler import sampling_of
from server.api.sdapi.scripts import read_scripts
from server.api.sdapi.settings import read_settings
from server.api.sdapi.source import Source, source_of
from server.api.sdapi.unused import unused_keys
from server.api.sdapi.upscalers import named
from server.errors import quoted
from server.pipeline.abilities import control_nets
from server.pipeline.limits import Within
from server.pipeline.request import FIELDS, RequestError, field_named
from server.pipeline.upscaling.names import LATENT, RESAMPLINGS


def _limits(name: str) -> Within:
    found = field_named(name).find(Within)
    assert found is not None
    return found


#: Images of a request, however they are divided into batches.
_MOST_IMAGES = int(_limits("n").high)
_PROMPTS = ("prompt", "negative_prompt")
#: What A1111 takes for hires fix if nothing is sent.
_HIRES_SCALE = 2.0
_SCALES = _limits("hires_scale")
_HIRES = tuple(field.name for field in FIELDS if field.part == "hires")


@dataclass
class Asked:
    """A request in our fields, as `Service.bind_request` takes it.

    source: its task, image and mask. attachments: all its images by name. fits: how to fit them.
    units: which of the client's ControlNet units each control is.
    keys: the client's key of a field where it is not the usual one.
    notes: what was not used, or used otherwise than the client may expect.
    """

    source: Source
    fields: dict[str, Any] = field(default_factory=dict)
    attachments: dict[str, bytes] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def asked(body: Making, manifest: Manifest, recalled: Recalled) -> Asked:
    """Return what a body asks for of a model; what it leaves out is as its infotext says.

    The names of models and upscalers are the caller's affair, because they are looked up. Raises RequestError about our fields
    or the client's keys, and ApiError for an unknown sampler.
    """
    source = source_of(body)
    settings = read_settings(body.override_settings or {})
    scripts = read_scripts(body.alwayson_scripts or {}, control_nets(manifest), source.attachments.get("image"))
    result = Asked(source, source.defaults | dict.fromkeys(_PROMPTS, "") | recalled.fields)
    if isinstance(body, Txt2ImgBody) and body.enable_hr is False:
        result.fields = {name: value for name, value in result.fields.items() if name not in _HIRES}
    result.fields |= source.fields
    result.fields |= {ours: value for key, ours in SAME.items() if (value := getattr(body, key)) is not None}
    result.fields |= settings.fields
    if scripts.controls:
        result.fields["controls"] = scripts.controls
    result.attachments = source.attachments | scripts.attachments
    result.fits = [*source.fits, *scripts.fits]
    result.units, result.keys = scripts.places, settings.keys
    result.notes = [*recalled.notes, *source.notes, *settings.notes, *scripts.notes, *unused_keys(body)]
    if not result.fields.get("only_masked"):
        result.fields.pop("mask_padding", None)
    _add_prompts(result, body)
    _add_sampling(result, body, manifest)
    _add_count(result, body)
    if isinstance(body, Txt2ImgBody) and body.enable_hr:
        _add_hires(result, body, manifest)
    return result


def _add_prompts(result: Asked, body: Making) -> None:
    for key in _PROMPTS:
        sent = getattr(body, key)
        if sent is not None:
            result.fields[key] = sent


def _add_sampling(result: Asked, body: Making, manifest: Manifest) -> None:
    key = "sampler_name" if body.sampler_name else "sampler_index"
    name = body.sampler_name or body.sampler_index
    result.keys["scheduler"] = key
    if not name and not body.scheduler:
        return
    usual = result.fields.get("scheduler", manifest.defaults.scheduler)
    sampling = sampling_of(key, name, body.scheduler, usual)
    result.fields["sigmas"] = sampling.sigmas
    if sampling.scheduler is not None:
        result.fields["scheduler"] = sampling.scheduler
    result.notes += sampling.notes


def _add_count(result: Asked, body: Making) -> None:
    counts = {"batch_size": body.batch_size, "n_iter": body.n_iter}
    for key, count in counts.items():
        if count is not None and not 1 <= count <= _MOST_IMAGES:
            raise RequestError(key, count, f"1 to {_MOST_IMAGES}, with batch_size times n_iter up to {_MOST_IMAGES}")
    n = (body.batch_size or 1) * (body.n_iter or 1)
    if n > _MOST_IMAGES:
        accepted = f"so many that batch_size times n_iter is at most {_MOST_IMAGES}; it is {n}"
        raise RequestError("n_iter", body.n_iter, accepted)
    result.fields["n"] = n


def _add_hires(result: Asked, body: Txt2ImgBody, manifest: Manifest) -> None:
    fields = result.fields
    fields["hires_scale"] = body.hr_scale if body.hr_scale is not None else fields.get("hires_scale", _HIRES_SCALE)
    if body.hr_resize_x or body.hr_resize_y:
        width, height = (
            fields.get(name) or side for name, side in zip(("width", "height"), manifest.sizes[0], strict=True)
        )
        across, down = (body.hr_resize_x or 0) / width, (body.hr_resize_y or 0) / height
        fields["hires_scale"] = max(across, down)
        if not _SCALES.accepts(max(across, down)) and max(across, down) != _SCALES.low:
            key, side = ("hr_resize_x", width) if across >= down else ("hr_resize_y", height)
            raise RequestError(
                key, getattr(body, key), f"from {side}, the image's own, to {_SCALES.high:g} times as much"
            )
        if across and down and abs(across - down) * max(width, height) >= 1:
            result.notes.append("hr_resize_x and hr_resize_y have another ratio than the image: nothing was cropped")
    if fields["hires_scale"] == 1:
        result.notes.append("a second pass that leaves the image as large as it is was not made")
        result.fields = {name: value for name, value in fields.items() if name not in _HIRES}
        return
    if body.hr_second_pass_steps is not None:
        fields["hires_steps"] = body.hr_second_pass_steps or None
    if body.denoising_strength is not None:
        fields["hires_strength"] = body.denoising_strength
    if body.hr_upscaler:
        fields["hires_upscaler"] = _hires_upscaler(body.hr_upscaler, result.notes)


def _hires_upscaler(name: str, notes: list[str]) -> str:
    """Return our name of an upscaler between the passes; an unknown one keeps its name, and is refused with the known ones."""
    if named(name) is None:
        return RESAMPLINGS[0]
    if not name.lower().startswith(LATENT):
        return name
    if name.lower() != LATENT:
        notes.append(f"hr_upscaler {quoted(name)}: latents are interpolated as with Latent")
    return LATENT
