"""What a body asks for, in our fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from converter.folder import Manifest
from server.api.sdapi.bodies import Img2ImgBody, Making, Txt2ImgBody
from server.api.sdapi.extra_networks import without_tags
from server.api.sdapi.names import SAME
from server.api.sdapi.sampler import sampling_of
from server.api.sdapi.scripts import base64_image, read_scripts
from server.errors import quoted
from server.pipeline.abilities import control_nets
from server.pipeline.encoding.formats import format_of_suffix
from server.pipeline.limits import Within
from server.pipeline.request import FIELDS, TASKS, RequestError, Task
from server.pipeline.request.edits import FILLS
from server.pipeline.upscaling.names import LATENT

#: Images of a request, however they are divided into batches.
_IMAGES = next(field for field in FIELDS if field.name == "n").find(Within)
assert _IMAGES is not None
_MOST_IMAGES = int(_IMAGES.high)
#: Keys that would change an image and that we have no equal of, with their values that change nothing.
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "restore_faces": (False,),
    "tiling": (False,),
    "eta": (0, 1),
    "s_churn": (0,),
    "s_tmin": (0,),
    "s_tmax": (0,),
    "s_noise": (1,),
    "s_min_uncond": (0,),
    "seed_resize_from_w": (0, -1),
    "seed_resize_from_h": (0, -1),
    "firstphase_width": (0,),
    "firstphase_height": (0,),
    "initial_noise_multiplier": (1,),
    "latent_mask": ("",),
}
_WITHOUT_EFFECT_IN_HIRES: Mapping[str, tuple[Any, ...]] = {
    "hr_checkpoint_name": ("", "Use same checkpoint"),
    "hr_sampler_name": ("", "Use same sampler"),
    "hr_scheduler": ("", "Use same scheduler"),
    "hr_prompt": ("",),
    "hr_negative_prompt": ("",),
}
_LATENT = "latent"
_CROP = 1
_RESIZE_MODES = ("Just resize", "Crop and resize", "Resize and fill", "Just resize (latent upscale)")
#: A1111's numbers of what a masked part starts from.
_FILLS = ("fill", "original", "noise", "nothing")
assert set(_FILLS) == set(FILLS)
#: A1111's defaults of what a mask means, which are not ours.
_OF_A_MASK = {"mask_fill": _FILLS[0], "only_masked": True, "mask_padding": 0}
_STRENGTH = 0.75
_RNGS = {"gpu": "cuda", "nv": "cuda", "cpu": "torch"}
#: Settings that change nothing here, or that mean what is done anyway.
_HARMLESS = ("sd_model_checkpoint", "sd_checkpoint_hash", "save_images_add_number", "samples_save", "grid_save")
_OWN_VAE = ("", "none", "automatic")


@dataclass
class Asked:
    """A request in our fields.

    task: which one. fields: as `Service.bind_request` takes them. attachments: its images by name.
    units: which of the client's ControlNet units each control is.
    keys: the client's key of a field where it is not the usual one.
    notes: what was not used, or used otherwise than the client may expect.
    resize_mode: how the client wants its image fitted.
    """

    task: Task
    fields: dict[str, Any] = field(default_factory=dict)
    attachments: dict[str, bytes] = field(default_factory=dict)
    units: list[int] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    resize_mode: str | None = None


def asked(body: Making, manifest: Manifest) -> Asked:
    """Return what a body asks for of a model; raises RequestError about our fields or the client's keys, and ApiError.

    The names of the model and the refiner are the caller's affair, because they are looked up.
    """
    result = Asked(TASKS["txt2img"])
    if isinstance(body, Img2ImgBody):
        _add_source(result, body)
    result.fields |= {ours: value for key, ours in SAME.items() if (value := getattr(body, key)) is not None}
    _add_prompts(result, body)
    _add_sampling(result, body, manifest)
    _add_count(result, body)
    _add_settings(result, body.override_settings or {})
    if isinstance(body, Txt2ImgBody) and body.enable_hr:
        _add_hires(result, body, manifest)
    scripts = read_scripts(body.alwayson_scripts or {}, control_nets(manifest), result.attachments.get("image"))
    if scripts.controls:
        result.fields["controls"] = scripts.controls
    result.attachments |= scripts.attachments
    result.units = scripts.places
    result.notes += [*scripts.notes, *_unused(body)]
    return result


def _add_prompts(result: Asked, body: Making) -> None:
    for key in ("prompt", "negative_prompt"):
        untagged = without_tags(getattr(body, key) or "")
        result.fields[key] = untagged.prompt
        result.notes += untagged.notes


def _add_sampling(result: Asked, body: Making, manifest: Manifest) -> None:
    key = "sampler_name" if body.sampler_name else "sampler_index"
    name = body.sampler_name or body.sampler_index
    sampling = sampling_of(key, name, body.scheduler, manifest.defaults.scheduler)
    result.fields |= {"scheduler": sampling.scheduler, "sigmas": sampling.sigmas}
    result.keys["scheduler"] = key
    result.notes += sampling.notes


def _add_count(result: Asked, body: Making) -> None:
    counts = {"batch_size": body.batch_size, "n_iter": body.n_iter}
    for key, count in counts.items():
        if count is not None and not 1 <= count <= _MOST_IMAGES:
            raise RequestError(key, count, f"1 to {_MOST_IMAGES}, with batch_size times n_iter up to {_MOST_IMAGES}")
    n = (body.batch_size or 1) * (body.n_iter or 1)
    if n > _MOST_IMAGES:
        raise RequestError(
            "n_iter", body.n_iter, f"so many that batch_size times n_iter is at most {_MOST_IMAGES}; it is {n}"
        )
    result.fields["n"] = n


def _add_settings(result: Asked, settings: Mapping[str, Any]) -> None:
    """Add what the request's own settings mean; those that are not used are noted."""
    unused = []
    for name, value in settings.items():
        if value is None or name in _HARMLESS:
            continue
        if name == "CLIP_stop_at_last_layers":
            result.fields["clip_skip"] = value
            result.keys["clip_skip"] = f"override_settings.{name}"
        elif name == "samples_format":
            to = format_of_suffix(f".{value}")
            if to is None:
                raise RequestError(f"override_settings.{name}", value, "png, jpg, jpeg, webp")
            result.fields["format"] = to.name
        elif name == "randn_source":
            rng = _RNGS.get(str(value).lower())
            if rng is None:
                raise RequestError(f"override_settings.{name}", value, "GPU, CPU, NV")
            result.fields["rng"] = rng
        elif not (name == "sd_vae" and str(value).lower() in _OWN_VAE) and name != "jpeg_quality":
            unused.append(name)
    if settings.get("jpeg_quality") is not None and result.fields.get("format") in ("jpeg", "webp"):
        result.fields["quality"] = settings["jpeg_quality"]
    if unused:
        names = ", ".join(quoted(name)[1:-1] for name in unused[:20])
        result.notes.append(f"settings of override_settings that this server does not have were not used: {names}")


def _add_hires(result: Asked, body: Txt2ImgBody, manifest: Manifest) -> None:
    fields = result.fields
    fields["hires_scale"] = body.hr_scale if body.hr_scale is not None else 2.0
    if body.hr_resize_x or body.hr_resize_y:
        width, height = body.width or manifest.sizes[0][0], body.height or manifest.sizes[0][1]
        across, down = (body.hr_resize_x or 0) / width, (body.hr_resize_y or 0) / height
        fields["hires_scale"] = max(across, down)
        result.keys["hires_scale"] = "hr_resize_x" if across >= down else "hr_resize_y"
        if across and down and abs(across - down) * max(width, height) >= 1:
            result.notes.append(
                "hr_resize_x and hr_resize_y have another ratio than width and height: nothing was cropped"
            )
    fields["hires_steps"] = body.hr_second_pass_steps or None
    fields["hires_strength"] = body.denoising_strength
    if body.hr_upscaler:
        fields["hires_upscaler"] = _hires_upscaler(body.hr_upscaler, result.notes)


def _hires_upscaler(name: str, notes: list[str]) -> str:
    """Return our name of an upscaler between the passes; an unknown one keeps its name, and is refused with the known ones."""
    if name.lower() == "none":
        return "lanczos"
    if not name.lower().startswith(_LATENT):
        return name
    if name.lower() != _LATENT:
        notes.append(f"hr_upscaler {quoted(name)}: latents are interpolated as with Latent")
    return LATENT


def _add_source(result: Asked, body: Img2ImgBody) -> None:
    images = [image for image in body.init_images or () if image is not None]
    if not images:
        raise RequestError("init_images", body.init_images, "a list of one image, as base64")
    if len(images) > 1:
        result.notes.append(f"init_images has {len(images)} images: the first was used")
    result.attachments["image"] = base64_image(images[0], "init_images.0")
    result.task = TASKS["img2img"]
    strength = _STRENGTH if body.denoising_strength is None else body.denoising_strength
    result.fields |= {"image": "image", "strength": strength}
    mode = body.resize_mode or 0
    if not 0 <= mode < len(_RESIZE_MODES):
        raise RequestError("resize_mode", mode, f"0 to {len(_RESIZE_MODES) - 1}")
    result.resize_mode = None if mode == _CROP else _RESIZE_MODES[mode]
    if body.mask not in (None, ""):
        _add_mask(result, body)


def _add_mask(result: Asked, body: Img2ImgBody) -> None:
    result.task = TASKS["inpaint"]
    result.attachments["mask"] = base64_image(body.mask, "mask")
    blurs = [blur for blur in (body.mask_blur_x, body.mask_blur_y) if blur is not None]
    if body.mask_blur is None and len(set(blurs)) > 1:
        result.notes.append("mask_blur_x and mask_blur_y differ: the larger was used for both")
    fill = body.inpainting_fill or 0
    if not 0 <= fill < len(_FILLS):
        raise RequestError("inpainting_fill", fill, f"0 to {len(_FILLS) - 1}")
    sent = {
        "mask_blur": max(blurs, default=None) if body.mask_blur is None else body.mask_blur,
        "only_masked": body.inpaint_full_res,
        "mask_padding": body.inpaint_full_res_padding,
        "invert_mask": body.inpainting_mask_invert,
    }
    fields = _OF_A_MASK | {"mask": "mask", "mask_fill": _FILLS[fill]}
    fields |= {name: value for name, value in sent.items() if value is not None}
    if not fields["only_masked"]:
        del fields["mask_padding"]
    result.fields |= fields


def _unused(body: Making) -> Iterator[str]:
    """Yield a note for each key that was sent, would change the image, and is not used."""
    extra = body.model_extra or {}
    neutral = dict(_WITHOUT_EFFECT)
    if isinstance(body, Txt2ImgBody) and body.enable_hr:
        neutral |= _WITHOUT_EFFECT_IN_HIRES
    for key, values in neutral.items():
        if extra.get(key) is not None and extra[key] not in values:
            yield f"{key} was not used: this server has no equal of it"
    if styles := body.styles:
        yield f"styles are not known here, and were not used: {', '.join(map(quoted, styles[:20]))}"
    if body.script_name:
        yield f"the script {quoted(body.script_name)} was not run: this server has none"


def with_fit(request: Asked, image: tuple[int, int] | None, size: tuple[int, int]) -> Asked:
    """Return the request with a note if its image of another ratio is cropped to the size, and not fitted as asked."""
    mode = request.resize_mode
    if mode is None or image is None or abs(image[0] * size[1] - image[1] * size[0]) < max(size):
        return request
    across, down = size
    note = (
        f"resize_mode {quoted(mode)[1:-1]} is not done here: the image was scaled to cover {across}x{down}, and cropped"
    )
    return replace(request, notes=[*request.notes, note])
