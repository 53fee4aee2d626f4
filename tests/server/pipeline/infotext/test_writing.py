"""A1111's parameters text, written and read back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from converter.manifest import Manifest
from server.pipeline.fields import Infotext
from server.pipeline.infotext import read_infotext, write_infotext
from server.pipeline.request import FIELDS, ImageSeeds, bind


@pytest.fixture
def manifest(model_folder) -> Manifest:
    return replace(model_folder.manifest, name='a, model: named "oddly"')


@pytest.mark.parametrize(
    ("prompt", "negative"),
    [
        ("a red circle", ""),
        ("a, b: c", "blurry, text"),
        ("two\nlines", "and\ntwo more"),
        ("Steps: 3, Sampler: x", "日本語 🎈"),
        ('"quoted" \\ slashes', "x"),
        ("", ""),
    ],
)
def test_what_is_written_is_read_back(manifest, prompt, negative):
    request = bind(manifest, prompt=prompt, negative_prompt=negative, scheduler="DPM++ 2M Karras", guidance_scale=7)
    parameters = read_infotext(write_infotext(request, manifest, ImageSeeds(42, None)))
    assert (parameters.prompt, parameters.negative_prompt) == (prompt, negative)
    assert parameters.settings["Steps"] == "20"
    assert (parameters.settings["Sampler"], parameters.settings["Schedule type"]) == ("DPM++ 2M", "Karras")
    assert (parameters.settings["CFG scale"], parameters.settings["Seed"], parameters.settings["Size"]) == (
        "7",
        "42",
        "64x64",
    )
    assert parameters.settings["Model"] == manifest.name
    assert "Denoising strength" not in parameters.settings


def test_the_text_is_laid_out_as_a1111_lays_it_out(manifest):
    request = bind(replace(manifest, name="m"), prompt="p", negative_prompt="n", seed=1, scheduler="euler_a")
    lines = write_infotext(request, replace(manifest, name="m"), ImageSeeds(1, None)).split("\n")
    assert lines[:2] == ["p", "Negative prompt: n"]
    assert lines[2].startswith(
        "Steps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7.5, Seed: 1, Size: 64x64"
    )


@pytest.mark.parametrize(("rng", "name"), [("torch", "CPU"), ("numpy", "NumPy"), ("cuda", "NV")])
def test_the_random_number_generator_has_a1111s_name(manifest, rng, name):
    request = bind(manifest, prompt="p", seed=1, rng=rng)
    assert read_infotext(write_infotext(request, manifest, request.seeds.of_images[0])).settings["RNG"] == name


def test_a_variation_is_written_with_each_images_own_seed(manifest):
    request = bind(manifest, prompt="p", seed=1, n=2, variation_seed=8, variation_strength=0.25)
    texts = [read_infotext(write_infotext(request, manifest, seeds)).settings for seeds in request.seeds.of_images]
    assert [(t["Seed"], t["Variation seed"], t["Variation seed strength"]) for t in texts] == [
        ("1", "8", "0.25"),
        ("1", "9", "0.25"),
    ]
    plain = bind(manifest, prompt="p", seed=1)
    assert "Variation" not in write_infotext(plain, manifest, plain.seeds.of_images[0])


def test_a_second_pass_is_written_as_a1111_does(manifest):
    hires = {"hires_scale": 1.5, "hires_steps": 4, "hires_upscaler": "latent", "hires_strength": 0.6}
    request = bind(manifest, prompt="p", seed=1, **hires)
    settings = read_infotext(write_infotext(request, manifest, request.seeds.of_images[0])).settings
    names = ("Hires upscale", "Hires steps", "Hires upscaler", "Denoising strength")
    assert [settings[name] for name in names] == ["1.5", "4", "Latent", "0.6"]


#: Written otherwise than under a key of their own, or, as the last two, about the file and not the image.
ELSEWHERE = {
    *(
        "model",
        "prompt",
        "negative_prompt",
        "width",
        "height",
        "scheduler",
        "sigmas",
        "controls",
        "loras",
        "n",
        "seed",
        "seeds",
    ),
    *("variation_seed", "variation_strength", "format", "quality"),
}


def test_every_field_that_changes_an_image_has_a_key():
    without = {field.name for field in FIELDS if field.find(Infotext) is None and not field.is_attachment}
    assert without == ELSEWHERE


def test_what_was_edited_is_written_where_it_is_not_usual(manifest):
    files = {name: name for name in ("image", "palette_image")}
    edits = {
        "extend_left": 16,
        "feather": 4,
        "palette_strength": 0.5,
        "guidance_rescale": 0.25,
        "guidance_last_sigma": 0.5,
    }
    request = bind(manifest, prompt="p", seed=1, image_size=(64, 64), **files, **edits)
    settings = read_infotext(write_infotext(request, manifest, request.seeds.of_images[0])).settings
    assert {
        key: settings.get(key) for key in ("Outpaint left", "Outpaint right", "Outpaint feather", "Palette strength")
    } == {
        "Outpaint left": "16",
        "Outpaint right": None,
        "Outpaint feather": "4",
        "Palette strength": "0.5",
    }
    assert [settings[key] for key in ("Guidance rescale", "Guidance last sigma")] == ["0.25", "0.5"]
    mask = {"image": "image", "mask": "mask", "invert_mask": True, "only_masked": True, "keep_unmasked": False}
    request = bind(manifest, prompt="p", seed=1, **mask)
    settings = read_infotext(write_infotext(request, manifest, request.seeds.of_images[0])).settings
    # As A1111 writes them (modules/processing.py).
    assert [settings[key] for key in ("Mask mode", "Inpaint area")] == ["Inpaint not masked", "Only masked"]
    assert settings["Keep unmasked"] == "False"


def test_text_without_settings_is_all_prompt():
    assert read_infotext("just words\nNegative prompt: none").prompt == "just words"
    assert read_infotext("a: b, c").settings == {}


SETTINGS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        (f'cat\n{SETTINGS}, Model: "abc', "Model", '"abc'),
        (f'cat\n{SETTINGS}, Template: "C:\\models\\x"', "Template", '"C:\\models\\x"'),
        (f'cat\n{SETTINGS}, Template: "a\\nb, c"', "Template", "a\nb, c"),
        (f'cat\n{SETTINGS}, Lora hashes: "x: 12ab, y: 34cd", Version: v1', "Lora hashes", "x: 12ab, y: 34cd"),
        (f"cat\n{SETTINGS}\n", "Seed", "1"),
        (f"cat\r\nNegative prompt: dog\r\n{SETTINGS}\r\n\r\n", "Seed", "1"),
    ],
)
def test_texts_of_other_programs_are_read(text, key, value):
    parameters = read_infotext(text)
    assert parameters.settings[key] == value
    assert parameters.prompt == "cat"


@pytest.mark.parametrize(
    ("prompt", "negative"),
    [
        ("cat\nNegative prompt: x", "dog"),
        ("cat\nNegative prompt: x", ""),
        ("Negative prompt: all of it", ""),
        ("cat", "dog\nNegative prompt: y"),
        ("cat\r\nhat", "a\r\nb"),
        ("cat\nSteps: 1, Seed: 2, Size: 1x1", ""),
        ('say "hi", Whole prompt: "no"', 'a "b'),
    ],
)
def test_prompts_that_look_like_the_layout_are_read_back_as_they_were(manifest, prompt, negative):
    request = bind(manifest, prompt=prompt, negative_prompt=negative)
    parameters = read_infotext(write_infotext(request, manifest, ImageSeeds(42, None)))
    assert (parameters.prompt, parameters.negative_prompt) == (prompt, negative)
    assert parameters.settings["Seed"] == "42"
    assert not set(parameters.settings) & {"Whole prompt", "Whole negative prompt"}


def test_clip_skip_and_plain_prompts_are_written_where_they_are_not_usual(manifest):
    def settings(**fields):
        request = bind(replace(manifest, clip_skip=2), prompt="p", seed=1, **fields)
        return read_infotext(write_infotext(request, manifest, request.seeds.of_images[0])).settings

    assert not settings().keys() & {"Clip skip", "Prompt syntax"}
    assert settings(clip_skip=2)["Clip skip"] == "2"
    assert settings(prompt_syntax="plain")["Prompt syntax"] == "plain"
