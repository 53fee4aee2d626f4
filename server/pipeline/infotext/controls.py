"""Control maps in the infotext, as the units of A1111's ControlNet extension (scripts/infotext.py)."""

from __future__ import annotations

from converter.folder import Manifest
from server.pipeline.fields import plain
from server.pipeline.infotext.parameters import lay_out_settings
from server.pipeline.preprocessors.registry import PREPROCESSORS
from server.pipeline.request.controls import Control

#: The key of a unit, by its number.
UNIT = "ControlNet {}"


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
