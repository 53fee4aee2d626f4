"""What an answer repeats of its request: the keys that are known here, without images unless they are asked for."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any

from fastapi.concurrency import run_in_threadpool

from server.api.sdapi.bodies import Img2ImgBody, Making

#: The keys of the images, which we know as attachments, and the JSON around their base64.
_IMAGES = {"image": ("init_images", b'["', b'"]'), "mask": ("mask", b'"', b'"')}
_PIECE = 2**20


@dataclass(frozen=True)
class Echo:
    """The ``parameters`` of an answer. ``images``: the JSON of their keys, in a file, as its job may wait behind many others."""

    values: dict[str, Any]
    images: IO[bytes] | None = None

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the JSON."""
        text = json.dumps(self.values).encode()
        if self.images is None:
            yield text
            return
        yield text[:-1]
        self.images.seek(0)
        while piece := await run_in_threadpool(self.images.read, _PIECE):
            yield piece
        yield b"}"

    def close(self) -> None:
        """Delete the file."""
        if self.images is not None:
            self.images.close()


def _scalar(value: Any) -> Any:
    """Return a value that JSON has; None for a longer one, which the client knows anyway."""
    is_short = isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_short else None


def echo_of(body: Making, attachments: Mapping[str, bytes]) -> Echo:
    """Return the ``parameters`` of the answer to a body with these attachments. Writes a file: call it in a thread."""
    values = {name: getattr(body, name) for name in type(body).model_fields}
    scripts: Mapping[str, Any] = body.alwayson_scripts or {}
    values["alwayson_scripts"] = {name: {"args": []} for name in scripts}
    values["override_settings"] = {name: _scalar(value) for name, value in (body.override_settings or {}).items()}
    values["styles"] = [_scalar(style) for style in body.styles or ()]
    if not isinstance(body, Img2ImgBody):
        return Echo(values)
    values |= {"init_images": None, "mask": None}
    if not body.include_init_images:
        return Echo(values)
    file = TemporaryFile()  # noqa: SIM115 (see Echo.close)
    for name, (key, before, after) in _IMAGES.items():
        if name in attachments:
            del values[key]
            file.writelines((f', "{key}": '.encode(), before, base64.b64encode(attachments[name]), after))
    return Echo(values, file)
