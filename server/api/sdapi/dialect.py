"""The dialect of AUTOMATIC1111's clients."""

from __future__ import annotations

from server.api.dialect import Dialect
from server.api.sdapi import PREFIX, images, lists, options, progress
from server.api.sdapi.bodies import Img2ImgBody, Txt2ImgBody, schemas_of
from server.api.sdapi.errors import SdapiError, render_error

SDAPI = Dialect(
    prefixes=(PREFIX, "/internal"),
    routers=(images.router, lists.router, options.router, progress.router, progress.internal),
    render_error=render_error,
    error_body=SdapiError,
    schemas=schemas_of(Txt2ImgBody, Img2ImgBody, options.OptionsBody, progress.TaskBody),
    ignores_query=True,
)
