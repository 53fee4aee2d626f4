"""AUTOMATIC1111's parameters text, which says how to make an image again: written, read, and turned into a request.

`find_infotext` finds it in an image file; `read_request_fields` returns the fields of the request that a text tells. Each field's key, and how its value is written
and read back, stands with the field's definition (`server.pipeline.fields.Infotext`).
"""

from server.pipeline.infotext.addons import FoundAddons, find_addons
from server.pipeline.infotext.files import FileInfotext, find_infotext
from server.pipeline.infotext.parameters import Parameters, Unused, read_infotext
from server.pipeline.infotext.recovery import RequestFields, read_request_fields
from server.pipeline.infotext.writing import write_infotext, write_upscale_infotext

__all__ = [
    "FileInfotext",
    "FoundAddons",
    "Parameters",
    "RequestFields",
    "Unused",
    "find_addons",
    "find_infotext",
    "read_infotext",
    "read_request_fields",
    "write_infotext",
    "write_upscale_infotext",
]
