"""Finds the infotext in an image file, where AUTOMATIC1111 looks for it (modules/images.py, read_info_from_image)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from server.pipeline.decoding.texts import read_texts
from server.pipeline.infotext.parameters import lay_out
from server.pipeline.schedulers import UnknownScheduler, find_scheduler

_PARAMETERS, _COMMENT = "parameters", "comment"


@dataclass(frozen=True)
class FileInfotext:
    """What an image file says of how it was made.

    text: the infotext; None if there is none.
    items: the file's other texts by name, such as ComfyUI's ``workflow``.
    unread: texts that could not be read, by name, with the reason.
    """

    text: str | None
    items: dict[str, str]
    unread: dict[str, str]


def find_infotext(data: bytes) -> FileInfotext:
    """Return the infotext of a PNG, JPEG, WebP or GIF, and the file's other texts.

    EXIF's comment counts before PNG's ``parameters``, and a plain comment only without both, as in A1111. Texts that NovelAI
    wrote are turned into an infotext, as A1111 does it. Raise ImageError for a file of too many pieces.
    """
    texts = read_texts(data)
    items = dict(texts.named)
    text = items.pop(_PARAMETERS, None)
    text = texts.user_comment or text or items.get(_COMMENT)
    if items.get("Software") == "NovelAI":
        text = _of_novelai(items) or text
    return FileInfotext(text, items, texts.unread)


def _of_novelai(items: Mapping[str, str]) -> str | None:
    """Return the infotext of NovelAI's texts, a description and JSON; None if they are not as expected."""
    try:
        said = json.loads(items.get("Comment", ""))
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    try:
        sampler = find_scheduler(str(said.get("sampler")))[0].title
    except UnknownScheduler:
        sampler = "Euler a"
    keys = {"steps": "Steps", "scale": "CFG scale", "seed": "Seed"}
    settings: dict[str, object] = {title: said[key] for key, title in keys.items() if said.get(key) is not None}
    if "width" in said and "height" in said:
        settings["Size"] = f"{said['width']}x{said['height']}"
    settings |= {"Sampler": sampler, "Clip skip": 2, "ENSD": 31337}
    return lay_out(items.get("Description", ""), str(said.get("uc") or ""), settings)
