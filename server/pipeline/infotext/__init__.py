"""AUTOMATIC1111's parameters text, which says how to make an image again."""

from server.pipeline.infotext.parameters import Parameters, read_infotext
from server.pipeline.infotext.writing import write_infotext, write_upscale_infotext

__all__ = ["Parameters", "read_infotext", "write_infotext", "write_upscale_infotext"]
