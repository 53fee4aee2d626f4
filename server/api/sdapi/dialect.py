"""The dialect of AUTOMATIC1111's clients."""

from __future__ import annotations

from server.api.dialect import Dialect, schemas_of
from server.api.sdapi import PREFIX, addons, controlnet, extras, images, lists, options, png_info, progress
from server.api.sdapi.bodies import Img2ImgBody, Txt2ImgBody
from server.api.sdapi.errors import SdapiError, render_error

SDAPI = Dialect(
    prefixes=(PREFIX, "/internal", "/controlnet"),
    routers=(
        images.router,
        extras.router,
        png_info.router,
        lists.router,
        addons.router,
        options.router,
        progress.router,
        progress.internal,
        controlnet.router,
    ),
    render_error=render_error,
    error_body=SdapiError,
    schemas=schemas_of(
        Txt2ImgBody,
        Img2ImgBody,
        extras.ExtrasBody,
        extras.ExtrasBatchBody,
        png_info.ImageBody,
        controlnet.DetectBody,
        options.OptionsBody,
        progress.TaskBody,
    ),
    ignores_query=True,
)
