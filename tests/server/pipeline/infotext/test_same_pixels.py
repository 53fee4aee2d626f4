"""An image's own text, read from its file, makes the same pixels again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.encoding.encode import encode_as
from server.pipeline.encoding.formats import FORMATS
from server.pipeline.finished import finished_png
from server.pipeline.infotext import find_infotext, read_infotext, read_request_fields
from server.pipeline.request import GenerationRequest, bind
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support.image_files import encoded_pixels

_DRAW = np.random.default_rng(5)
ATTACHED = {
    "image": encoded_pixels(_DRAW.integers(0, 256, (64, 64, 3), np.uint8)),
    "mask": encoded_pixels(np.pad(np.full((24, 24), 255, np.uint8), 20)),
    "palette_image": encoded_pixels(_DRAW.integers(0, 256, (32, 32, 3), np.uint8)),
}
IMAGE, MASK = {"image": "image"}, {"image": "image", "mask": "mask"}
CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "several images": {"n": 3, "seed": 2**32 - 2},
    "a seed for each": {"seeds": [5, 3]},
    "variations": {"n": 2, "variation_seed": 4, "variation_strength": 1 / 3},
    "a generator": {"rng": "cuda"},
    "another generator": {"rng": "numpy"},
    "sigmas": {"scheduler": "DPM++ 2M SDE Karras", "steps": 4},
    "guidance": {"guidance_scale": 7.123456789, "guidance_rescale": 0.123456789, "guidance_first_sigma": 9.87654321},
    "a size that is scaled": {"width": 72, "height": 80},
    "hires fix": {"hires_scale": 1.5, "hires_strength": 0.7, "n": 2},
    "hires fix of latents": {"hires_scale": 4 / 3, "hires_upscaler": "latent", "hires_steps": 3},
    "syntax": {
        "prompt": "a (red:1.3) [circle] BREAK on [blue:green:0.5] AND a \\(square\\) :0.5",
        "negative_prompt": "((text)), [a|b]",
    },
    "plain text": {"prompt": "a (red:1.3) circle", "prompt_syntax": "plain"},
    "lines and quotes": {
        "prompt": 'say "Steps: 1, Seed: 2, Size: 8x8"\n\n  Negative prompt: none, \\ \r\n',
        "negative_prompt": '\nunder: "lines", \tJSON [1, {}]\n',
    },
    "a long prompt": {
        "prompt": "a red circle, a blue square, " * 60 + "\nand 日本語 🎈",
        "negative_prompt": "x, " * 200,
    },
    "an image": IMAGE | {"strength": 2 / 3, "steps": 6},
    "an image varied": IMAGE | {"prompt": "", "steps": 4},
    "a mask": MASK | {"strength": 0.9, "mask_blur": 1.5, "mask_fill": "noise", "invert_mask": True, "steps": 3},
    "a mask alone": MASK | {"only_masked": True, "mask_padding": 8, "keep_unmasked": False},
    "beyond an edge": IMAGE | {"extend_left": 32, "feather": 5},
    "a palette": {"palette_image": "palette_image", "palette_strength": 0.6},
}


@pytest.fixture(scope="module")
def model(model_folder) -> StableDiffusion:
    return StableDiffusion(model_folder, {})


def bound(model: StableDiffusion, fields: dict[str, Any], task: str | None = None) -> GenerationRequest:
    size = (64, 64) if "image" in fields else None
    return bind(model.manifest, image_size=size, task=task, **{"prompt": "a red circle", "steps": 2} | fields)


def made(model: StableDiffusion, request: GenerationRequest) -> Iterator[GeneratedImage]:
    return (event for event in model.generate(request, ATTACHED) if isinstance(event, GeneratedImage))


@pytest.mark.parametrize("case", CASES)
def test_the_text_of_an_image_makes_the_same_pixels(model, case):
    request = bound(model, CASES[case])
    images = [*made(model, request)]
    assert len(images) == request.images
    assert len({image.pixels.tobytes() for image in images}) == len(images)
    for number, image in enumerate(images):
        png = finished_png(image, request, model.manifest, mark=True)
        found = {name: find_infotext(encode_as(png, to)).text for name, to in FORMATS.items()}
        (text,) = {*found.values()}
        assert text is not None
        told = read_request_fields(read_infotext(text))
        assert told.unused == ()
        repeated = bound(model, told.fields | {name: name for name in told.attachments}, told.task)
        (again,) = made(model, repeated)
        assert np.array_equal(again.pixels, image.pixels), (case, number)


def test_another_seed_makes_other_pixels(model):
    first, second = (next(made(model, bound(model, {"seed": seed}))) for seed in (1, 2))
    assert not np.array_equal(first.pixels, second.pixels)
