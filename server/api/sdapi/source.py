"""The image that img2img starts from, and its mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.api.sdapi.bodies import Img2ImgBody, Making
from server.api.sdapi.fit import Fit
from server.api.sdapi.scripts import base64_image
from server.pipeline.request import TASKS, RequestError, Task
from server.pipeline.request.edits import FILLS

#: A1111's names of its numbers.
_RESIZE_MODES = ("Just resize", "Crop and resize", "Resize and fill", "Just resize (latent upscale)")
_FILLS = ("fill", "original", "noise", "nothing")
assert set(_FILLS) == set(FILLS)
#: A1111's defaults of an image and of a mask, which are not ours.
_OF_AN_IMAGE: Mapping[str, Any] = {"strength": 0.75}
_OF_A_MASK: Mapping[str, Any] = {"mask_fill": _FILLS[0], "only_masked": True, "mask_padding": 0}


@dataclass
class Source:
    """The image and mask of a request: fields, their defaults, the images by name, how to fit them, and notes."""

    task: Task = TASKS["txt2img"]
    fields: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    attachments: dict[str, bytes] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def has_mask(body: Making) -> bool:
    """Return whether a body has a mask."""
    return isinstance(body, Img2ImgBody) and body.mask not in (None, "")


def task_of(body: Making) -> Task:
    """Return the task that a body asks for."""
    if not isinstance(body, Img2ImgBody):
        return TASKS["txt2img"]
    return TASKS["inpaint" if has_mask(body) else "img2img"]


def source_of(body: Making) -> Source:
    """Return the image and mask of a body; raises RequestError about the client's keys."""
    source = Source(task_of(body))
    if not isinstance(body, Img2ImgBody):
        return source
    images = [image for image in body.init_images or () if image is not None]
    if not images:
        raise RequestError("init_images", body.init_images, "a list of one image, as base64")
    if len(images) > 1:
        source.notes.append(f"init_images has {len(images)} images: the first was used")
    source.attachments["image"] = base64_image(images[0], "init_images.0")
    source.fields |= {"image": "image"}
    source.defaults |= _OF_AN_IMAGE
    if body.denoising_strength is not None:
        source.fields["strength"] = body.denoising_strength
    mode = _number(body.resize_mode, "resize_mode", _RESIZE_MODES) or _RESIZE_MODES[0]
    source.fits.append(Fit("image", "resize_mode", mode))
    if has_mask(body):
        _add_mask(source, body)
    return source


def _number(value: int | None, key: str, names: tuple[str, ...]) -> str | None:
    """Return the name of one of A1111's numbers; raises RequestError for another number."""
    if value is not None and not 0 <= value < len(names):
        raise RequestError(key, value, f"0 to {len(names) - 1}")
    return None if value is None else names[value]


def _add_mask(source: Source, body: Img2ImgBody) -> None:
    source.attachments["mask"] = base64_image(body.mask, "mask")
    blurs = [blur for blur in (body.mask_blur_x, body.mask_blur_y) if blur is not None]
    if body.mask_blur is None and len(set(blurs)) > 1:
        source.notes.append("mask_blur_x and mask_blur_y differ: the larger was used for both")
    sent = {
        "mask": "mask",
        "mask_blur": max(blurs, default=None) if body.mask_blur is None else body.mask_blur,
        "mask_fill": _number(body.inpainting_fill, "inpainting_fill", _FILLS),
        "only_masked": body.inpaint_full_res,
        "mask_padding": body.inpaint_full_res_padding,
        "invert_mask": body.inpainting_mask_invert,
    }
    source.fields |= {name: value for name, value in sent.items() if value is not None}
    source.defaults |= _OF_A_MASK
