"""The generation request, to which every dialect converts its own format: nested by concern, immutable, bound to a model.

Each field is defined once, with its limits, default, description and infotext key, in the module of its concern. Validation,
JSON, the database, the native API's schema, the command line's flags, the capabilities' limits and the infotext follow from
the definition.
"""

from server.pipeline.request.addons import Embedding, KnownAddons, KnownEmbedding, Lora, fits
from server.pipeline.request.binding import bind, defaults
from server.pipeline.request.errors import RequestError
from server.pipeline.request.request import (
    FIELDS,
    GenerationRequest,
    field_named,
    longest_prompt,
)
from server.pipeline.request.sampling import Extent, Size
from server.pipeline.request.seeds import RNGS, ImageSeeds
from server.pipeline.request.stored import JobRequest, read_request
from server.pipeline.request.tasks import TASKS, Task, edit_task, takers
from server.pipeline.request.upscale import UPSCALE_FIELDS, UpscaleRequest, bind_upscale, needs_model

__all__ = [
    "FIELDS",
    "RNGS",
    "TASKS",
    "UPSCALE_FIELDS",
    "Embedding",
    "Extent",
    "GenerationRequest",
    "ImageSeeds",
    "JobRequest",
    "KnownAddons",
    "KnownEmbedding",
    "Lora",
    "RequestError",
    "Size",
    "Task",
    "UpscaleRequest",
    "bind",
    "bind_upscale",
    "defaults",
    "edit_task",
    "field_named",
    "fits",
    "longest_prompt",
    "needs_model",
    "read_request",
    "takers",
]
