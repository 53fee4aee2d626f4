"""What an answer repeats of its request: the keys that are known here, without images unless they are asked for."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

from server.api.forms import image_bytes
from server.api.sdapi.bodies import Img2ImgBody, Making


def _scalar(value: Any) -> Any:
    """Return a value that JSON has; None for a longer one, which the client knows anyway."""
    is_short = isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_short else None


def echo_of(body: Making) -> dict[str, Any]:
    """Return the ``parameters`` of the answer."""
    values = {name: getattr(body, name) for name in type(body).model_fields}
    scripts: Mapping[str, Any] = body.alwayson_scripts or {}
    values["alwayson_scripts"] = {name: {"args": []} for name in scripts}
    values["override_settings"] = {name: _scalar(value) for name, value in (body.override_settings or {}).items()}
    values["styles"] = [_scalar(style) for style in body.styles or ()]
    if isinstance(body, Img2ImgBody):
        values |= {"init_images": None, "mask": None}
        if body.include_init_images:
            values["init_images"] = [base64.b64encode(image_bytes(image)).decode() for image in body.init_images or ()]
            values["mask"] = None if body.mask in (None, "") else base64.b64encode(image_bytes(body.mask)).decode()
    return values
