"""Keys that would change an image on AUTOMATIC1111, and that this server has no equal of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from server.api.sdapi.bodies import Making, Txt2ImgBody
from server.api.sdapi.scripts import CONTROLNET
from server.errors import listed, quoted

#: Those of every call, with the values at which they change nothing.
_KEYS: Mapping[str, tuple[Any, ...]] = {
    "restore_faces": (False,),
    "tiling": (False,),
    "eta": (0, 1),
    "s_churn": (0,),
    "s_tmin": (0,),
    "s_tmax": (0,),
    "s_noise": (1,),
    "s_min_uncond": (0,),
    "seed_resize_from_w": (0, -1),
    "seed_resize_from_h": (0, -1),
    "firstphase_width": (0,),
    "firstphase_height": (0,),
    "initial_noise_multiplier": (1,),
    "latent_mask": ("",),
}
#: Those of hires fix.
_OF_HIRES: Mapping[str, tuple[Any, ...]] = {
    "hr_checkpoint_name": ("", "Use same checkpoint"),
    "hr_sampler_name": ("", "Use same sampler"),
    "hr_scheduler": ("", "Use same scheduler"),
    "hr_prompt": ("",),
    "hr_negative_prompt": ("",),
}


def unused_keys(body: Making) -> Iterator[str]:
    """Yield a note for each key that was sent, would change the image, and is not used."""
    extra = body.model_extra or {}
    keys = {**_KEYS, **(_OF_HIRES if isinstance(body, Txt2ImgBody) and body.enable_hr else {})}
    for key, neutral in keys.items():
        if extra.get(key) is not None and extra[key] not in neutral:
            yield f"{key} was not used: this server has no equal of it"
    has_units = any(name.casefold() == CONTROLNET.casefold() for name in body.alwayson_scripts or {})
    if extra.get("controlnet_units") and not has_units:
        yield f"controlnet_units was not used: units are read of alwayson_scripts.{CONTROLNET}.args"
    if styles := body.styles:
        yield f"styles are not known here, and were not used: {listed([*map(quoted, styles)])}"
    if body.script_name:
        yield f"the script {quoted(body.script_name)} was not run: this server has none"
