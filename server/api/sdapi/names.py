"""AUTOMATIC1111's keys and our fields: the one table of both, and errors of our fields in its keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from server.api.refusal import Refusal
from server.pipeline.request import RequestError

_T = TypeVar("_T")
#: Our field by the key whose value it takes as it is.
SAME: dict[str, str] = {
    "steps": "steps",
    "cfg_scale": "guidance_scale",
    "width": "width",
    "height": "height",
    "seed": "seed",
    "subseed": "variation_seed",
    "subseed_strength": "variation_strength",
    "clip_skip": "clip_skip",
    "refiner_switch_at": "refiner_switch",
}
#: Our field by the key that it is made of.
_MADE_OF: dict[str, str] = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "sampler_name": "scheduler",
    "scheduler": "sigmas",
    "batch_size": "n",
    "sd_model_checkpoint": "model",
    "refiner_checkpoint": "refiner",
    "init_images.0": "image",
    "mask": "mask",
    "mask_blur": "mask_blur",
    "inpainting_fill": "mask_fill",
    "inpaint_full_res": "only_masked",
    "inpaint_full_res_padding": "mask_padding",
    "inpainting_mask_invert": "invert_mask",
    "hr_scale": "hires_scale",
    "hr_second_pass_steps": "hires_steps",
    "hr_upscaler": "hires_upscaler",
    "denoising_strength": "strength",
    "override_settings.samples_format": "format",
    "override_settings.jpeg_quality": "quality",
    "override_settings.randn_source": "rng",
}
#: The key of each of our fields.
_KEYS = {ours: key for key, ours in (SAME | _MADE_OF).items()} | {
    "hires_strength": "denoising_strength",
    "controls": "alwayson_scripts.ControlNet.args",
}
#: The same of a ControlNet unit.
_UNIT_KEYS = {
    "image": "image",
    "net": "model",
    "weight": "weight",
    "start": "guidance_start",
    "end": "guidance_end",
    "preprocessor": "module",
    "low_threshold": "threshold_a",
    "high_threshold": "threshold_b",
}
#: Our names that are no words of plain English, wherever they stand.
_IN_TEXT = {ours: key for ours, key in (_KEYS | _UNIT_KEYS).items() if "_" in ours and ours != key}
_CONTROL = re.compile(r"\bcontrols\.(\d+)\b")
_WORD = re.compile(rf"\b({'|'.join(sorted(_IN_TEXT, key=len, reverse=True))})\b")


def unit_place(number: int) -> str:
    """Return where a client's ControlNet unit stands, from 0."""
    return f"alwayson_scripts.ControlNet.args.{number}"


def in_their_words(text: str) -> str:
    """Return a sentence with AUTOMATIC1111's keys in place of our fields; of controls, those that are switched on count."""
    text = _CONTROL.sub(r"ControlNet unit \1", text)
    return _WORD.sub(lambda found: _IN_TEXT[found[0]], text)


def key_of(field: str, units: Sequence[int]) -> str:
    """Return a field's key. ``units`` says which of the client's ControlNet units each control is."""
    if found := re.fullmatch(r"controls\.(\d+)\.(\w+)", field):
        return f"{unit_place(units[int(found[1])])}.{_UNIT_KEYS[found[2]]}"
    return _KEYS.get(field, field)


def their_error(error: RequestError, units: Sequence[int] = (), keys: Mapping[str, str] | None = None) -> RequestError:
    """Return the error with the client's key in place of our field; ``keys`` has those that are not the usual ones."""
    key = (keys or {}).get(error.field) or key_of(error.field, units)
    return RequestError(key, error.value, in_their_words(error.accepted))


def in_their_keys(
    result: _T | Refusal, units: Sequence[int] = (), keys: Mapping[str, str] | None = None
) -> _T | Refusal:
    """Return the service's result; a refusal with the client's key in place of our field, as `their_error` does."""
    if not isinstance(result, Refusal) or result.field is None:
        return result
    key = (keys or {}).get(result.field) or key_of(result.field, units)
    is_first = result.message.startswith(result.field)
    message = key + result.message.removeprefix(result.field) if is_first else result.message
    return replace(result, field=key, message=message)
