"""Control maps in the infotext, as the units of A1111's ControlNet extension (scripts/infotext.py)."""

from __future__ import annotations

import re
from typing import Any

from converter.folder import Manifest
from server.pipeline.fields import plain
from server.pipeline.infotext.parameters import Unused, lay_out_settings, read_settings
from server.pipeline.preprocessors.registry import NONE, PREPROCESSORS
from server.pipeline.request.controls import Control

#: The key of a unit, by its number.
UNIT = "ControlNet {}"
#: A pair or triple of numbers.
_TUPLE = re.compile(r"(?<=: )\(([^()]*)\)")
#: A checkpoint's hash after its name.
_HASH = re.compile(r"\s*\[[0-9a-fA-F]+\]$")
_PREPROCESSORS = {each.title.lower(): each for each in PREPROCESSORS.values()}
#: What a unit says at its usual value; others are not used.
_USUAL = {
    "resize mode": ("crop and resize",),
    "control mode": ("balanced",),
    "low vram": ("false", "true"),
    "pixel perfect": ("false", "true"),
    "save detected map": ("false", "true"),
    "hr option": ("both",),
    "processor res": ("512", "-1", "0.5", "64"),
}


def without_hash(model: str) -> str:
    """Return a model's name without the hash in brackets that A1111 writes after some."""
    return _HASH.sub("", model)


def write_unit(control: Control, manifest: Manifest) -> str:
    """Return a control as a unit."""
    settings = {
        "Module": PREPROCESSORS[control.preprocessor].title,
        "Model": control.network(manifest).rpartition("/")[2],
        "Weight": plain(control.weight),
        "Resize Mode": "Crop and Resize",
        **dict(zip(("Threshold A", "Threshold B"), control.thresholds, strict=False)),
        "Guidance Start": plain(control.start),
        "Guidance End": plain(control.end),
        "Control Mode": "Balanced",
    }
    return lay_out_settings(settings)


def read_unit(key: str, text: str) -> tuple[dict[str, Any], list[Unused]]:
    """Return the fields of a control, without its image, and what of its setting ``key`` was not used.

    The extension's versions up to 1.1.4 wrote ``preprocessor: canny, model: ..., starting/ending: (0, 1)``.
    """
    settings = {k.lower(): v for k, v in read_settings(_TUPLE.sub(lambda found: found[1].replace(",", ""), text))}
    unused: list[Unused] = []
    fields: dict[str, Any] = {}
    module = settings.pop("module", settings.pop("preprocessor", NONE))
    preprocessor = _PREPROCESSORS.get(module.lower())
    if preprocessor is None:
        unused.append(Unused(f"{key}: Module", module, "this server does not have it; send the map that it made"))
    elif preprocessor.name != NONE:
        fields["preprocessor"] = preprocessor.name
    if model := settings.pop("model", ""):
        fields["net"] = without_hash(model)
    start, end = [*settings.pop("starting/ending", "").split(), None, None][:2]
    numbers = {
        "weight": settings.pop("weight", None),
        "start": settings.pop("guidance start", start),
        "end": settings.pop("guidance end", end),
    }
    fields |= {name: value for name, value in numbers.items() if value is not None}
    low, high = settings.pop("threshold a", None), settings.pop("threshold b", None)
    if preprocessor is not None and preprocessor.thresholds:
        fields |= {n: v for n, v in (("low_threshold", low), ("high_threshold", high)) if v is not None}
    for name, value in settings.items():
        if value.lower() not in _USUAL.get(name, ()):
            unused.append(Unused(f"{key}: {name.title()}", value, "controls have no such field"))
    return fields, unused
