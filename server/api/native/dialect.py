"""The native dialect; it also renders the errors of every path outside the other dialects."""

from __future__ import annotations

from server.api.dialect import Dialect
from server.api.native import (
    PREFIX,
    addons,
    capabilities,
    conversions,
    images,
    infotext,
    jobs,
    models,
    palette,
    preprocess,
    session,
    tokens,
    upscale,
)
from server.api.native.errors import ErrorBody, render_error

NATIVE = Dialect(
    prefixes=(PREFIX, ""),
    # The fixed paths of conversions precede those of models, which accept any name.
    routers=(
        images.router,
        palette.router,
        infotext.router,
        upscale.router,
        jobs.router,
        conversions.router,
        models.router,
        addons.router,
        preprocess.router,
        capabilities.router,
        tokens.router,
        session.router,
    ),
    render_error=render_error,
    error_body=ErrorBody,
    schemas={
        **images.SCHEMAS,
        **preprocess.BODY.schemas,
        **palette.BODY.schemas,
        **infotext.BODY.schemas,
        **upscale.BODY.schemas,
    },
)
