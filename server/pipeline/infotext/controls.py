"""Control maps in the infotext, as the units of A1111's ControlNet extension (scripts/infotext.py)."""

from __future__ import annotations

import re
import string
from typing import Any

from converter.manifest import Manifest
from server.pipeline.fields import plain
from server.pipeline.infotext.parameters import Unused, lay_out_settings, read_settings
from server.pipeline.preprocessors.registry import NONE, PREPROCESSORS, find_preprocessor
from server.pipeline.request.controls import Control

#: The key of a unit, by its number; and the keys of units as others write them.
UNIT = "ControlNet {}"
_UNIT = re.compile(r"controlnet(?: \d+)?", re.IGNORECASE)
#: A pair or triple of numbers.
_TUPLE = re.compile(r"(?<=: )\(([^()]*)\)")
_HEX = set(string.hexdigits)
_THRESHOLDS = ("threshold a", "threshold b")
#: What a unit says at its usual value; others are not used.
_USUAL = dict.fromkeys(_THRESHOLDS, ("-1", "0.5", "1", "1.0", "64")) | {
    "resize mode": ("crop and resize", "1"),
    "control mode": ("balanced", "0"),
    "low vram": ("false", "true"),
    "pixel perfect": ("false", "true"),
    "save detected map": ("false", "true"),
    "hr option": ("both", "hiresfixoption.both"),
    "processor res": ("512", "-1", "0.5", "64"),
}


def split_hash(model: str) -> tuple[str, str | None]:
    """Return a model's name, and the hash in brackets that A1111 writes after some; None without one."""
    # A regular expression that begins with spaces takes seconds for 60 kB of them.
    name, bracket, rest = model.rpartition("[")
    digest = rest.removesuffix("]")
    if not bracket or digest == rest or not digest or not set(digest) <= _HEX:
        return model, None
    return name.rstrip(), digest


def without_hash(model: str) -> str:
    """Return a model's name without the hash in brackets."""
    return split_hash(model)[0]


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


def is_unit(key: str) -> bool:
    """Return whether a setting is a unit: ``ControlNet 0``, or ``ControlNet`` where there is only one."""
    return _UNIT.fullmatch(key) is not None


def read_unit(key: str, text: str) -> tuple[dict[str, Any] | None, list[Unused]]:
    """Return the fields of a control, without its image, and what of its setting ``key`` was not used.

    The fields are None if the unit has no ControlNet: preprocessors such as reference_only do without. The extension's
    versions up to 1.1.4 wrote ``preprocessor: canny, model: ..., starting/ending: (0, 1)``.
    """
    settings = {k.lower(): v for k, v in read_settings(_TUPLE.sub(lambda found: found[1].replace(",", ""), text))}
    model = without_hash(settings.pop("model", "None"))
    if model.lower() == "none":
        return None, [Unused(key, text, "it has no ControlNet")]
    unused: list[Unused] = []
    fields: dict[str, Any] = {"net": model}
    module = settings.pop("module", settings.pop("preprocessor", NONE))
    preprocessor = find_preprocessor(module)
    if preprocessor is None:
        unused.append(Unused(f"{key}: Module", module, "this server does not have it; send the map that it made"))
    elif preprocessor.name != NONE:
        fields["preprocessor"] = preprocessor.name
    start, end = [*settings.pop("starting/ending", "").split(), None, None][:2]
    values = {
        "weight": settings.pop("weight", None),
        "start": settings.pop("guidance start", start),
        "end": settings.pop("guidance end", end),
    }
    if preprocessor is not None and preprocessor.thresholds:
        names = zip(("low_threshold", "high_threshold"), _THRESHOLDS, strict=True)
        sent = ((name, settings.pop(theirs, None)) for name, theirs in names)
        values |= {name: text for name, text in sent if text != "-1"}  # the usual one
    fields |= {name: value for name, value in values.items() if value is not None}
    for name, value in settings.items():
        if value.lower() not in _USUAL.get(name, ()):
            unused.append(Unused(f"{key}: {name.title()}", value, "controls have no such field"))
    return fields, unused
