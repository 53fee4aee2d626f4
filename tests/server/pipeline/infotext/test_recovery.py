"""The request that an infotext tells: every field of ours comes back, and what is not used is said."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from converter.manifest import Package
from server.pipeline.fields import Infotext
from server.pipeline.infotext import (
    Parameters,
    read_infotext,
    read_request_fields,
    write_infotext,
    write_upscale_infotext,
)
from server.pipeline.infotext.controls import split_hash
from server.pipeline.request import FIELDS, GenerationRequest, KnownAddons, RequestError, bind, bind_upscale
from server.pipeline.schedulers import SCHEDULERS
from tests.support.addons import FakeLora
from tests.support.fake_pipeline import MANIFEST

_PACKAGE = Package("p.mlpackage", 64, 64, 2, 77)
#: A model that can do everything.
MODEL = replace(
    MANIFEST,
    name="able, [1]",
    clip_skip=2,
    networks=MANIFEST.networks
    | {
        "unet": (_PACKAGE, replace(_PACKAGE, control=True)),
        "controlnet/canny": (_PACKAGE,),
        "controlnet/tile, v2": (_PACKAGE,),
        "ip_adapter/plus": (_PACKAGE,),
        "ip_adapter/face": (_PACKAGE,),
    },
)
IMAGE, MASK = {"image": "image"}, {"image": "image", "mask": "mask"}
HIRES = {"hires_scale": 1.5}
#: For each field, a value other than the usual one, and what it needs beside it.
VALUES: dict[str, tuple[Any, dict[str, Any]]] = {
    "prompt": ('two "lines"\nNegative prompt: x, <lora:a:0.5>', {}),
    "negative_prompt": ("a: b,\n\nc ", {}),
    "prompt_syntax": ("plain", {}),
    "clip_skip": (2, {}),
    "width": (96, {}),
    "height": (72, {}),
    "steps": (37, {}),
    "guidance_scale": (7.123456789012345, {}),
    "scheduler": ("euler_a", {}),
    "sigmas": ("ays", {}),
    "guidance_rescale": (0.1 + 0.2, {}),
    "guidance_first_sigma": (9.87654321, {}),
    "guidance_last_sigma": (1e-05, {}),
    "seed": (2**32 - 1, {}),
    "variation_seed": (4, {"variation_strength": 0.5}),
    "variation_strength": (1 / 3, {"variation_seed": 4}),
    "rng": ("numpy", {}),
    "strength": (2 / 3, IMAGE),
    "mask_blur": (1.23456789, MASK),
    "invert_mask": (True, MASK),
    "mask_fill": ("nothing", MASK | {"strength": 0.5}),
    "only_masked": (True, MASK),
    "mask_padding": (7, MASK | {"only_masked": True}),
    "keep_unmasked": (False, MASK),
    "extend_left": (16, IMAGE),
    "extend_right": (24, IMAGE),
    "extend_top": (32, IMAGE),
    "extend_bottom": (40, IMAGE),
    "feather": (3, IMAGE | {"extend_left": 8}),
    "palette_strength": (0.7, {"palette_image": "palette_image"}),
    "adapter": ("face", {"adapter_image": "adapter_image"}),
    "adapter_scale": (1.9, {"adapter_image": "adapter_image"}),
    "hires_scale": (4 / 3, {}),
    "hires_upscaler": ("Real, ESRGAN: x4", HIRES),
    "hires_steps": (2, HIRES),
    "hires_strength": (0.123456789, HIRES),
    "refiner": ("a, refiner", {}),
    "refiner_switch": (0.65, {"refiner": "r"}),
    "controls": (
        [
            {"image": "a", "preprocessor": "canny", "low_threshold": 3, "high_threshold": 40, "weight": 2 / 3},
            {"image": "b", "net": "tile, v2", "start": 0.1, "end": 0.9},
        ],
        {},
    ),
    "loras": ([{"name": "a, b", "weight": 1 / 3}, {"name": "c", "weight": -1, "text_weight": 0.5}], {}),
}
ADDONS = KnownAddons({name: FakeLora(name) for name in ("a, b", "c")})
#: Not in the text: the model, which the server chooses by its hash; the number of images and their seeds, because a text is
#: one image's; and how the file is written.
NOT_IN_THE_TEXT = {"model", "n", "seeds", "format", "quality"}


def text_of(request: GenerationRequest, image: int = 0) -> str:
    return write_infotext(request, MODEL, request.seeds.of_images[image])


def again(text: str, **attachments: str) -> GenerationRequest:
    """The request that the text's fields make, with the attachments that it says are missing."""
    found = read_request_fields(read_infotext(text))
    assert found.unused == ()
    fields: dict[str, Any] = dict(found.fields)
    for name in found.attachments:
        if name.startswith("controls."):
            fields["controls"][int(name.split(".")[1])]["image"] = "ab"[int(name.split(".")[1])]
        else:
            fields[name] = name
    return bind(MODEL, task=found.task, image_size=(64, 64) if "image" in fields else None, addons=ADDONS, **fields)


def asked(**fields: Any) -> GenerationRequest:
    size = (64, 64) if "image" in fields else None
    request = bind(MODEL, addons=ADDONS, **{"prompt": "p", "seed": 7, "image_size": size} | fields)
    # What a text names outright: the first of the model's networks.
    controls = tuple(c.model_copy(update={"net": c.net or "canny"}) for c in request.controls)
    return request.model_copy(update={"controls": controls, "notes": ()})


def test_every_field_has_a_value_to_try():
    assert set(VALUES) == {f.name for f in FIELDS if not f.is_attachment} - NOT_IN_THE_TEXT
    assert {f.name for f in FIELDS if f.find(Infotext)} <= set(VALUES)


@pytest.mark.parametrize("name", VALUES)
def test_every_field_comes_back_exactly_as_it_was(name):
    value, beside = VALUES[name]
    request = asked(**beside, **{name: value})
    assert request != asked(**beside) or name == "prompt"
    assert again(text_of(request)).model_copy(update={"notes": ()}) == request


def test_loras_come_back_beside_a_plain_prompt_whose_own_tags_are_text():
    request = asked(prompt="a <lora:b:1> c", prompt_syntax="plain", loras=[{"name": "c", "weight": 0.8}])
    assert request.prompts.prompt == "a <lora:b:1> c"
    assert again(text_of(request)) == request


@pytest.mark.parametrize("fields", [{}, IMAGE, MASK, IMAGE | {"prompt": ""}, IMAGE | {"extend_top": 8}, HIRES])
def test_usual_values_come_back_with_their_task(fields):
    request = asked(**fields)
    assert again(text_of(request)) == request


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_comes_back_with_its_sigmas(scheduler):
    for sigmas in SCHEDULERS[scheduler].sigma_schedules:
        request = asked(scheduler=scheduler, sigmas=sigmas)
        assert again(text_of(request)).sampling == request.sampling


@pytest.mark.parametrize("varied", [{}, {"variation_seed": 2**32 - 1, "variation_strength": 0.25}])
def test_each_of_several_images_has_the_text_of_its_own_request(varied):
    request = asked(n=3, seed=2**32 - 2, **varied)
    for image, seeds in enumerate(request.seeds.of_images):
        (own,) = again(text_of(request, image)).seeds.of_images
        assert own == seeds


def test_the_model_is_named_for_the_server_to_find():
    found = read_request_fields(read_infotext(text_of(asked())))
    assert (found.model, found.model_hash) == ("able, [1]", "0" * 10)
    assert "model" not in found.fields


@pytest.mark.parametrize("asked", [{"scale": 2.3}, {"scale": 1.2345678901}, {"width": 70, "height": 30}, {}])
def test_an_enlarged_image_names_its_upscaler_and_its_size(asked):
    request = bind_upscale({"a, b": 64}, (30, 20), image="image", **asked)
    found = read_request_fields(read_infotext(write_upscale_infotext(request)))
    assert (found.task, found.attachments, found.unused) == ("upscale", ("image",), ())
    repeated = bind_upscale({"a, b": 64}, (30, 20), image="image", **found.fields)
    assert (repeated.size, repeated.upscaler) == (request.size, request.upscaler)


def test_an_enlarged_image_of_a1111_names_its_scale():
    text = "Postprocess upscale by: 4, Postprocess upscaler: R-ESRGAN 4x+, Version: v1.10.1"
    found = read_request_fields(read_infotext(text))
    assert (found.task, found.fields) == ("upscale", {"upscaler": "R-ESRGAN 4x+", "scale": 4})
    assert (found.attachments, found.unused) == (("image",), ())


def read(settings: str, attached: tuple[str, ...] | None = None) -> tuple[dict[str, Any], dict[str, str], Any]:
    """The fields but the prompt, what was not used with the reason, and all of the result."""
    found = read_request_fields(read_infotext(f"cat\n{settings}"), attached)
    assert found.fields["prompt"] == "cat"
    fields = {name: value for name, value in found.fields.items() if name != "prompt"}
    return fields, {each.name: each.why for each in found.unused}, found


@pytest.mark.parametrize(
    ("text", "scheduler", "sigmas"),
    [
        # A1111 before 1.9: the schedule is part of the name, or k-diffusion's own.
        ("Sampler: DPM++ 2M Karras", "dpm++_2m", "karras"),
        ("Sampler: DPM++ 2M", "dpm++_2m", "uniform"),
        ("Sampler: DPM++ 3M SDE Exponential", "dpm++_3m_sde", "exponential"),
        ("Sampler: Euler a", "euler_a", "uniform"),
        ("Sampler: DDIM", "ddim", "automatic"),
        # From 1.9 on: Automatic depends on the sampler.
        ("Sampler: DPM++ 2M, Schedule type: Automatic", "dpm++_2m", "karras"),
        ("Sampler: DPM++ 2M SDE, Schedule type: Automatic", "dpm++_2m_sde", "exponential"),
        ("Sampler: Euler, Schedule type: Automatic", "euler", "uniform"),
        ("Sampler: UniPC, Schedule type: Automatic", "unipc", "automatic"),
        ("Sampler: Euler, Schedule type: SGM Uniform", "euler", "sgm_uniform"),
        # SD.Next and this server: the model's own spacing.
        ("Sampler: DPM++ 2M, App: SD.Next", "dpm++_2m", "automatic"),
        ("Sampler: DPM++ 2M, Schedule type: Automatic, Version: Anemone 1.0", "dpm++_2m", "automatic"),
    ],
)
def test_a_sampler_means_what_it_meant_to_the_program_that_wrote_it(text, scheduler, sigmas):
    fields, unused, _ = read(f"Steps: 20, CFG scale: 7, {text}")
    assert (fields["scheduler"], fields["sigmas"], unused) == (scheduler, sigmas, {})


@pytest.mark.parametrize(
    ("text", "missing", "sigmas"),
    [
        ("Sampler: Restart, Schedule type: Karras", {"Sampler", "Schedule type"}, None),
        ("Sampler: Euler, Schedule type: KL Optimal", {"Schedule type"}, "uniform"),
        ("Sampler: DDIM, Schedule type: Karras", {"Schedule type"}, "automatic"),
    ],
)
def test_a_sampler_or_schedule_that_is_not_here_is_said(text, missing, sigmas):
    fields, unused, _ = read(f"Steps: 20, CFG scale: 7, {text}")
    assert (set(unused), fields.get("sigmas")) == (missing, sigmas)


@pytest.mark.parametrize(
    ("rng", "ours"), [("", "cuda"), (", RNG: GPU", "cuda"), (", RNG: NV", "cuda"), (", RNG: CPU", "torch")]
)
def test_a_text_without_a_generator_means_the_gpu_s(rng, ours):
    assert read(f"Steps: 20, CFG scale: 7, Seed: 1{rng}")[0]["rng"] == ours


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("Hires upscale: 2, Hires upscaler: Latent (bicubic)", {"hires_scale": 2, "hires_upscaler": "latent"}),
        ("Hires upscale: 1.5, Hires upscaler: None", {"hires_scale": 1.5, "hires_upscaler": "lanczos"}),
        ("Hires upscale: 2, Hires upscaler: R-ESRGAN 4x+", {"hires_scale": 2, "hires_upscaler": "R-ESRGAN 4x+"}),
        ("Hires resize: 768x1152, Hires upscaler: Lanczos", {"hires_scale": 1.5, "hires_upscaler": "lanczos"}),
        ("Hires resize: 1024x0", {"hires_scale": 2}),
        ("First pass size: 256x384", {"width": 256, "height": 384, "hires_scale": 2}),
        ("First pass size: 0x0", {"width": 448, "height": 640, "hires_scale": 1.2}),
    ],
)
def test_a_second_pass_is_read_from_every_version_of_a1111(text, fields):
    found, _, result = read(f"Steps: 20, CFG scale: 7, Size: 512x768, Denoising strength: 0.6, {text}")
    assert fields.items() <= found.items()
    assert (found["hires_strength"], result.task, "strength" in found) == (0.6, "txt2img", False)


def test_a_second_pass_of_another_ratio_is_said():
    found, unused, _ = read("Steps: 20, CFG scale: 7, Size: 512x512, Hires resize: 1024x768")
    assert found["hires_scale"] == 2
    assert set(unused) == {"Hires resize"}


def test_a_part_without_the_field_that_makes_it_one_is_left_out():
    found, unused, _ = read(
        "Steps: 20, CFG scale: 7, Hires upscale: 1, Hires upscaler: Latent, Denoising strength: 0.5"
    )
    assert not {name for name in found if name.startswith("hires")}
    assert set(unused) == {"Hires upscale", "Hires upscaler", "Denoising strength"}
    bind(MODEL, prompt="cat", **found)


INPAINTED = (
    "Steps: 20, CFG scale: 7, Size: 512x512, Denoising strength: 0.6, Mask blur: 6, Masked content: latent noise, "
    "Inpaint area: Only masked, Masked area padding: 16, Mask mode: Inpaint not masked"
)


def test_an_inpainted_image_of_a1111_needs_its_image_and_its_mask():
    found, unused, result = read(INPAINTED)
    assert (result.task, result.attachments, unused) == ("inpaint", ("image", "mask"), {})
    assert found["strength"] == 0.6
    mask = {"mask_blur": 6, "mask_fill": "noise", "only_masked": True, "mask_padding": 16, "invert_mask": True}
    assert mask.items() <= found.items()


@pytest.mark.parametrize(
    ("attached", "task", "strength"),
    [
        ((), "txt2img", None),
        (("image",), "img2img", 0.6),
        (("mask",), "txt2img", None),
        (("image", "mask"), "inpaint", 0.6),
    ],
)
def test_what_belongs_to_an_image_that_is_not_there_is_left_out_with_a_word(attached, task, strength):
    found, unused, result = read(INPAINTED, attached)
    assert (result.task, found.get("strength")) == (task, strength)
    assert set(result.attachments) <= set(attached)
    assert ("Mask blur" in unused) == (task != "inpaint")
    assert ("Denoising strength" in unused) == (task == "txt2img")


def test_a_strength_of_zero_is_no_image_to_start_from():
    _, unused, result = read("Steps: 20, CFG scale: 7, Denoising strength: 0")
    assert (result.task, result.attachments, set(unused)) == ("txt2img", (), {"Denoising strength"})


@pytest.mark.parametrize(
    "unit",
    [
        "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 0.8, Resize Mode: Crop and Resize, Low Vram: False, "
        "Processor Res: 512, Threshold A: 50, Threshold B: 150, Guidance Start: 0.1, Guidance End: 0.9, "
        "Pixel Perfect: False, Control Mode: Balanced, Hr Option: Both, Save Detected Map: True",
        "preprocessor: canny, model: control_v11p_sd15_canny [d14c016b], weight: 0.8, starting/ending: (0.1, 0.9), "
        "resize mode: Crop and Resize, pixel perfect: False, control mode: Balanced, threshold a: 50, threshold b: 150",
    ],
)
def test_a_unit_of_a1111_s_extension_is_a_control(unit):
    found, unused, result = read(f'Steps: 20, CFG scale: 7, ControlNet 0: "{unit}"')
    assert found["controls"] == [
        {
            "preprocessor": "canny",
            "net": "control_v11p_sd15_canny",
            "weight": 0.8,
            "start": 0.1,
            "end": 0.9,
            "low_threshold": 50,
            "high_threshold": 150,
        }
    ]
    assert (unused, result.attachments) == ({}, ("controls.0.image",))
    assert "controls" not in read(f'Steps: 20, CFG scale: 7, ControlNet 0: "{unit}"', ())[0]


def test_thresholds_of_minus_one_are_the_usual_ones():
    unit = "Module: canny, Model: c, Threshold A: -1, Threshold B: -1"
    found, unused, _ = read(f'Steps: 20, CFG scale: 7, ControlNet 0: "{unit}"')
    assert (found["controls"], unused) == ([{"preprocessor": "canny", "net": "c"}], {})


def test_a_variation_without_a_seed_says_what_is_missing():
    _, unused, _ = read("Steps: 20, CFG scale: 7, Variation seed: 4, Variation seed strength: 0.5")
    assert set(unused) == {"Variation seed", "Variation seed strength"}
    assert set(unused.values()) == {"there is no Seed"}


def test_what_a_control_does_not_have_is_said():
    unit = (
        "Module: depth_midas, Model: d, Weight: 3, Resize Mode: Just Resize, Control Mode: ControlNet is more important"
    )
    found, unused, _ = read(f'Steps: 20, CFG scale: 7, ControlNet 0: "{unit}"')
    assert found["controls"] == [{"net": "d"}]
    names = ("Module", "weight", "Resize Mode", "Control Mode")
    assert set(unused) == {f"ControlNet 0: {name}" for name in names}


def test_more_controls_than_a_request_may_have_are_said():
    units = ", ".join(f'ControlNet {i}: "Model: n{i}, Weight: 1"' for i in range(5))
    found, unused, result = read(f"Steps: 20, CFG scale: 7, {units}")
    assert [control["net"] for control in found["controls"]] == ["n0", "n1", "n2"]
    assert (set(unused), len(result.attachments)) == ({"ControlNet 3", "ControlNet 4"}, 3)


def test_what_has_no_field_or_is_beyond_its_limits_is_said_in_words():
    found = read_request_fields(
        Parameters(
            "p", "", {"Steps": "20000", "Seed": "-5", "Size": "big", "RNG": "dice", "Face restoration": "GFPGAN"}
        )
    )
    assert found.fields == {"prompt": "p"}
    assert [str(each) for each in found.unused] == [
        "Seed '-5' is not used: accepted: 0 to 4294967295, or -1 for a random one",
        "Size 'big' is not used: accepted: a width and a height, such as 512x512",
        "Steps '20000' is not used: accepted: 1 to 150",
        "RNG 'dice' is not used: accepted: CPU, NumPy, NV",
        "Face restoration 'GFPGAN' is not used: requests have no such field",
    ]


def test_any_text_gives_a_request_or_says_what_is_not_used():
    draw = random.Random(4)
    keys = [f.find(Infotext).key for f in FIELDS if f.find(Infotext)]  # type: ignore[union-attr]
    keys += [
        "Sampler",
        "Schedule type",
        "Size",
        "Seed",
        "Variation seed",
        "First pass size",
        "Hires resize",
        "ControlNet 0",
    ]
    values = (
        "",
        "0",
        "-1",
        "1.5",
        "1e999",
        "nan",
        "0x0",
        "512x512",
        "99999999999999x1",
        "True",
        "é" * 300,
        "(0, 1)",
        "Euler",
    )
    for _ in range(200):
        settings = {key: draw.choice(values) for key in draw.sample(keys, 8)}
        found = read_request_fields(Parameters("p", "", settings), draw.choice((None, (), ("image", "mask"))))
        fields = found.fields | {name: name for name in found.attachments if "." not in name}
        fields.pop("controls", None)
        with suppress(RequestError):
            bind(MODEL, task=found.task, image_size=(64, 64), **fields)


@pytest.mark.parametrize(("title", "parts"), [
    ("v1-5 [6ce0161689]", ("v1-5", "6ce0161689")),
    ("v1-5", ("v1-5", None)),
    ("v1-5 [beta]x", ("v1-5 [beta]x", None)),
    ("v1-5 [inpainting]", ("v1-5 [inpainting]", None)),
    ("v1-5 []", ("v1-5 []", None)),
    (" " * 60_000, (" " * 60_000, None)),
])  # fmt: skip
def test_a_hash_after_a_models_name_is_told_apart(title: str, parts: tuple[str, str | None]) -> None:
    assert split_hash(title) == parts


@pytest.mark.parametrize(
    "text", [" " * 60_000, "(" * 60_000, "x" + " " * 30_000 + "(" * 30_000, " [" * 30_000, "1x" * 30_000]
)
def test_long_values_take_no_time(text: str) -> None:
    """Expressions that begin with spaces took 1 to 5 s for these."""
    unit = f'"Module: {text}, Model: {text}, starting/ending: ({text}"'
    settings = (
        f"Steps: 1, Seed: 1, Size: {text}, Sampler: {text}, Model: {text}, Hires resize: {text}, ControlNet 0: {unit}"
    )
    began = time.perf_counter()
    read_request_fields(read_infotext(f"a\n{settings}"))
    assert time.perf_counter() - began < 0.5
