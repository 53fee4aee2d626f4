"""The ``override_settings`` of a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.errors import listed, quoted
from server.pipeline.encoding.formats import FORMATS, format_of_suffix
from server.pipeline.request import RequestError

#: Settings that are read elsewhere, or that change nothing here.
_QUIET = (
    "sd_model_checkpoint", "sd_checkpoint_hash", "jpeg_quality", "samples_save", "grid_save", "save_images_add_number",
)  # fmt: skip
_OWN_VAE = ("", "none", "automatic")
#: A1111's sources of random numbers, and ours.
_RNGS = {"gpu": "cuda", "nv": "cuda", "cpu": "torch"}


@dataclass
class Settings:
    """The fields that settings give, the keys of those fields, and notes."""

    fields: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_settings(asked: Mapping[str, Any]) -> Settings:
    """Return what settings mean, without the model; those that are not used are noted. Raises RequestError."""
    settings = Settings()
    unused = []
    for name, value in asked.items():
        place = f"override_settings.{name}"
        if value is None or name in _QUIET:
            continue
        if name == "CLIP_stop_at_last_layers":
            settings.fields["clip_skip"], settings.keys["clip_skip"] = value, place
        elif name == "samples_format":
            to = format_of_suffix(f".{value}") if isinstance(value, str) else None
            if to is None:
                raise RequestError(place, value, "png, jpg, jpeg, webp")
            settings.fields["format"] = to.name
        elif name == "randn_source":
            rng = _RNGS.get(value.lower()) if isinstance(value, str) else None
            if rng is None:
                raise RequestError(place, value, "GPU, CPU, NV")
            settings.fields["rng"] = rng
        elif not (name == "sd_vae" and isinstance(value, str) and value.lower() in _OWN_VAE):
            unused.append(quoted(name)[1:-1])
    quality, to_name = asked.get("jpeg_quality"), settings.fields.get("format")
    if quality is not None and to_name is not None and FORMATS[to_name].lossy:
        settings.fields["quality"] = quality
    if unused:
        settings.notes.append(f"of override_settings, these are not known here: {listed(unused)}")
    return settings
