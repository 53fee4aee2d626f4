"""The ``alwayson_scripts`` of a request: ControlNet's units become controls, others are noted or refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from server.api.forms import image_bytes
from server.api.sdapi.fit import Fit
from server.api.sdapi.names import unit_place
from server.errors import quoted
from server.pipeline.infotext.controls import without_hash
from server.pipeline.preprocessors.registry import NONE, PREPROCESSORS, find_preprocessor, learned_reason
from server.pipeline.request import RequestError

CONTROLNET = "ControlNet"
#: Scripts of AUTOMATIC1111 and Forge themselves, which are in every request of some clients.
_BUILT_IN = (
    "api payload", "comments", "extra options", "hypertile", "hypertile integrated", "kohya hrfix integrated",
    "never oom integrated", "refiner", "sampler", "seed", "soft inpainting",
)  # fmt: skip
#: The extension's names of its numbers.
_RESIZE_MODES = ("Just Resize", "Crop and Resize", "Resize and Fill", "Just Resize")
#: Names that earlier versions had for Crop and Resize.
_CROPS = ("scale to fit (inner fit)", "inner fit (scale to fit)")
#: A unit's keys that we have no equal of, and their values that change nothing.
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "mask": ("", None),
    "mask_image": ("", None),
    "control_mode": (None, 0, "Balanced"),
    "guessmode": (None, False),
    "hr_option": (None, "Both"),
    "advanced_weighting": (None, []),
    "effective_region_mask": ("", None),
    "batch_images": ("", None),
    "ipadapter_input": ("", None, []),
}
#: The settings that a unit and a control both have.
_SAME = {"weight": "weight", "guidance_start": "start", "guidance_end": "end"}


@dataclass
class Scripts:
    """What the scripts of a request mean.

    controls: the controls, as a request's field. places: which of the client's units each is.
    attachments: their images. fits: how to fit them. notes: what was not used.
    """

    controls: list[dict[str, Any]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    attachments: dict[str, bytes] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_scripts(asked: Mapping[str, Any], nets: tuple[str, ...], source: bytes | None) -> Scripts:
    """Return what the scripts mean with a model that has these ControlNets; ``source`` is the image of a unit without one.

    Raises RequestError.
    """
    scripts = Scripts()
    for name, script in asked.items():
        if script is not None and not isinstance(script, dict):
            raise RequestError(f"alwayson_scripts.{name}", script, 'an object with "args"')
        args = (script or {}).get("args") or []
        place = f"alwayson_scripts.{name}.args"
        if not isinstance(args, list):
            raise RequestError(place, args, "a list")
        if name.lower() == CONTROLNET.lower():
            for number, unit in enumerate(args):
                _add_unit(scripts, number, unit, nets, source)
        elif name.lower() in _BUILT_IN:
            if args and args[0]:
                scripts.notes.append(f"the script {quoted(name)} was not used: this server has none")
        elif args and args[0] is not False:  # scripts that are switched off change nothing
            raise RequestError("alwayson_scripts", name, f"{CONTROLNET}: this server has no other scripts")
    return scripts


def _add_unit(scripts: Scripts, number: int, unit: Any, nets: tuple[str, ...], source: bytes | None) -> None:
    place = unit_place(number)
    if unit is None or unit is False:
        return
    if not isinstance(unit, dict):
        raise RequestError(place, unit, "a unit: an object with image, module, model and weight")
    if unit.get("enabled", True) in (False, 0, "false"):
        return
    control = dict(_settings(unit, place, nets, scripts.notes))
    attachment = f"control_{len(scripts.controls)}_image"
    scripts.attachments[attachment] = _image(unit, place, source, scripts.notes)
    scripts.controls.append({"image": attachment, **control})
    scripts.places.append(number)
    mode = unit.get("resize_mode")
    if isinstance(mode, int) and 0 <= mode < len(_RESIZE_MODES):
        mode = _RESIZE_MODES[mode]
    if isinstance(mode, str) and mode.casefold() not in _CROPS:
        scripts.fits.append(Fit(attachment, f"{place}.resize_mode", mode))


def _settings(
    unit: Mapping[str, Any], place: str, nets: tuple[str, ...], notes: list[str]
) -> Iterator[tuple[str, Any]]:
    yield from ((ours, unit[key]) for key, ours in _SAME.items() if unit.get(key) is not None)
    yield from preprocessing(
        unit.get("module"), f"{place}.module", unit.get("threshold_a"), unit.get("threshold_b")
    ).items()
    net = _net(unit.get("model"), place, nets)
    if net is not None:
        yield "net", net
    elif nets:
        yield "net", nets[0]
        notes.append(f"{place}.model names none: {nets[0]} was used")
    for key, usual in _WITHOUT_EFFECT.items():
        if unit.get(key) not in usual:
            notes.append(f"{place}.{key} was not used: this server has no equal of it")


def preprocessing(module: Any, place: str, low: Any, high: Any) -> dict[str, Any]:
    """Return the fields of a preprocessor, which stands at ``place``, and of its thresholds; raises RequestError."""
    preprocessor = _preprocessor(module, place)
    fields: dict[str, Any] = {"preprocessor": preprocessor}
    if PREPROCESSORS[preprocessor].thresholds:
        for name, value in (("low_threshold", low), ("high_threshold", high)):
            # -1 stands for the usual one.
            if value is not None and not (isinstance(value, int | float) and value < 0):
                fields[name] = value
    return fields


def _preprocessor(module: Any, place: str) -> str:
    if module in (None, ""):
        return NONE
    found = find_preprocessor(module) if isinstance(module, str) else None
    if found is None:
        titles = ", ".join(each.title for each in PREPROCESSORS.values())
        raise RequestError(place, module, titles + learned_reason(str(module)[:80]))
    return found.name


def _net(model: Any, place: str, nets: tuple[str, ...]) -> str | None:
    if model is None or (isinstance(model, str) and model.strip().lower() in ("", "none")):
        return None
    name = without_hash(model).strip().casefold() if isinstance(model, str) else None
    found = next((net for net in nets if net.casefold() == name), None)
    if found is None:
        raise RequestError(f"{place}.model", model, ", ".join(nets) or "none: the model has no ControlNet")
    return found


def _image(unit: Mapping[str, Any], place: str, source: bytes | None, notes: list[str]) -> bytes:
    key = "image" if unit.get("image") not in (None, "") else "input_image"
    image = unit.get(key)
    if isinstance(image, list) and len(image) == 1:
        image = image[0]
    if isinstance(image, dict):
        if image.get("mask") not in (None, ""):
            notes.append(f"{place}.{key}.mask was not used: this server has no equal of it")
        image = image.get("image")
    if image in (None, ""):
        if source is None:
            raise RequestError(f"{place}.image", image, "an image, as base64")
        return source
    return base64_image(image, f"{place}.{key}")


def base64_image(value: Any, place: str) -> bytes:
    """Return the image that a key's text of base64 is; raises RequestError."""
    try:
        return image_bytes(value)
    except ValueError as error:
        raise RequestError(place, value, str(error)) from error
