"""The bodies of calls that make images: the keys that count. Others may be the client's own, and are ignored."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from server.api.dialect import body_limit, schema_reference
from server.api.errors import from_validation
from server.api.image_json import MOST_IMAGES, read_image_json
from server.pipeline.limits import FIRST_ONLY, Characters, Real, Whole, Within
from server.pipeline.request.conditions import PROMPT
from server.pipeline.request.upscale import LONGEST_RESULT
from server.security.body import LARGEST_BODY, USUAL_BODY

_Body = TypeVar("_Body", bound="Body")
#: A name of something; it is looked up, and one that is unknown is refused or told.
Name = Annotated[str, Characters(10_000)]
#: An infotext has both prompts and the settings.
_INFOTEXT = Characters(128 * 2**10)
_MOST_STYLES = 1000
#: Pixels of a side of a second pass; 0 is as if it was left out.
_SIDE = Within(0, LONGEST_RESULT)

#: A flag; some clients send numbers.
Flag = Annotated[bool, WithJsonSchema({"enum": [True, False, 0, 1]})]
#: An image is a text of base64 or a ``data:`` URI; see `server.api.forms.image_bytes`.
Image = Annotated[Any, Field(json_schema_extra={"anyOf": [{"type": "string"}, {"type": "null"}]})]


class Body(BaseModel):
    """What a client sends as JSON: null is as if the key was left out."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class Making(Body):
    """The keys of txt2img and of img2img."""

    prompt: Annotated[str, PROMPT] | None = Field(None, description="What to show; `<lora:name:1>` names a LoRA")
    negative_prompt: Annotated[str, PROMPT] | None = Field(None, description="What not to show")
    styles: Annotated[list[Any], FIRST_ONLY, Field(max_length=_MOST_STYLES)] | None = Field(
        None, description="Not known here; told in the notes"
    )
    seed: Whole | None = Field(None, description="-1: a random one")
    subseed: Whole | None = Field(None, description="The variation's seed; -1: a random one")
    subseed_strength: Real | None = Field(None, description="How far to go towards the subseed, 0 to 1")
    batch_size: Whole | None = Field(None, description="Images, times n_iter")
    n_iter: Whole | None = Field(None, description="Batches")
    steps: Whole | None = Field(None, description="Denoising steps; left out: the model's own number")
    cfg_scale: Real | None = Field(None, description="How closely to follow the prompt; left out: the model's own")
    width: Whole | None = Field(None, description="Pixels; left out: the model's own size")
    height: Whole | None = Field(None, description="Pixels; left out: the model's own size")
    sampler_name: Name | None = Field(None, description="A sampler, also with its schedule: `DPM++ 2M Karras`")
    sampler_index: Name | None = Field(None, description="The older name of sampler_name")
    scheduler: Name | None = Field(None, description="The schedule type; an unknown one is ignored")
    denoising_strength: Real | None = Field(None, description="How much of the image, or of the first pass, to change")
    clip_skip: Whole | None = Field(None, description="How many of the text encoder's last layers to leave out, from 1")
    refiner_checkpoint: Name | None = Field(None, description="An installed refiner")
    refiner_switch_at: Real | None = Field(None, description="The share of the steps after which it takes over")
    override_settings: dict[str, Any] | None = Field(
        None,
        description="Settings of this request: sd_model_checkpoint, CLIP_stop_at_last_layers, samples_format and others",
    )
    alwayson_scripts: dict[str, Any] | None = Field(None, description="ControlNet's units")
    script_name: Name | None = Field(None, description="There are no scripts here; told in the notes")
    infotext: Annotated[str, _INFOTEXT] | None = Field(
        None, description="An image's parameters, which fill in what is left out"
    )
    send_images: Flag | None = Field(None, description="false: `images` is empty")
    force_task_id: Name | None = Field(None, description="The client's own id of the task, for /internal/progress")


class Txt2ImgBody(Making):
    """Make images from a prompt. What is left out takes the model's defaults."""

    enable_hr: Flag | None = Field(None, description="Make a second, larger pass")
    hr_scale: Real | None = Field(None, description="How much larger; left out: 2")
    hr_resize_x: Annotated[Whole, _SIDE] | None = Field(
        None, description="The second pass's width, in place of hr_scale"
    )
    hr_resize_y: Annotated[Whole, _SIDE] | None = Field(
        None, description="The second pass's height, in place of hr_scale"
    )
    hr_second_pass_steps: Whole | None = Field(None, description="0: as many as the first pass")
    hr_upscaler: Name | None = Field(None, description="What enlarges between the passes")


class Img2ImgBody(Making):
    """Make images from an image and a prompt, or paint the masked part again."""

    init_images: Annotated[list[Image], FIRST_ONLY, Field(max_length=MOST_IMAGES)] | None = Field(
        None, description="The image to start from, as base64"
    )
    mask: Image = Field(None, description="White where to paint, as base64")
    mask_blur: Real | None = Field(None, description="Softness of the mask's edge")
    mask_blur_x: Real | None = Field(None, description="As mask_blur")
    mask_blur_y: Real | None = Field(None, description="As mask_blur")
    inpainting_fill: Whole | None = Field(
        None, description="What is painted starts from: 0 its surroundings, 1 the image, 2 noise, 3 nothing"
    )
    inpaint_full_res: Flag | None = Field(None, description="Compute only the masked part; left out: true")
    inpaint_full_res_padding: Whole | None = Field(None, description="Pixels around it")
    inpainting_mask_invert: Flag | None = Field(None, description="Paint where the mask is black")
    resize_mode: Whole | None = Field(None, description="0 stretch, 1 crop, 2 fill, 3 latent; images are cropped here")
    include_init_images: Flag | None = Field(None, description="Repeat the image and the mask in the answer")


async def read_body(request: Request, kind: type[_Body]) -> _Body:
    """Parse a request's body as JSON, whatever its type says: clients send none, or another one.

    Raises ApiError. Pages of other sites, which may send some of those types, do not come this far (`server.security.origin`).
    """
    try:
        return kind.model_validate(await read_image_json(request.stream()))
    except ValidationError as error:
        raise from_validation(list(error.errors())) from error


def route_of(kind: type[BaseModel], *, images: bool) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a route that takes a body, with images or without."""
    content = {"application/json": {"schema": schema_reference(kind.__name__)}}
    limit = body_limit(LARGEST_BODY if images else USUAL_BODY)
    return {**limit, "requestBody": {"required": True, "content": content}}
