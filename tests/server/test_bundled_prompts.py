"""What the syntax of prompts makes the bundled model show, judged by pixels."""

from __future__ import annotations

import numpy as np
import pytest

from demo.pixels import look
from server.pipeline.denoising.denoiser import GeneratedImage, Note
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def model(bundled_folder):
    return StableDiffusion(bundled_folder, {})


def made(model, prompt, **fields):
    """Return an image's ground and things, and the notes about it."""
    request = bind(model.manifest, prompt=prompt, seed=7, steps=10, **fields)
    events = list(model.generate(request, {}))
    pixels = next(event.pixels for event in events if isinstance(event, GeneratedImage))
    ground, seen = look(pixels)
    return ground, [(s.color, s.shape) for s in seen], [e.text for e in events if isinstance(e, Note)], pixels


@pytest.mark.parametrize(("when", "shown"), [("0.9", ("red", "circle")), ("0.1", ("green", "square"))])
def test_an_edit_shows_the_text_that_most_steps_had(model, when, shown):
    ground, things, notes, _ = made(model, f"[a red circle:a green square:{when}] on a blue background")
    assert (ground, things, notes) == ("blue", [shown], [])


def test_and_composes_two_things(model):
    prompt = "a red circle on the left on a yellow background :0.5 AND a blue square on the right on a yellow background :0.5"
    ground, things, _, _ = made(model, prompt)
    assert ground == "yellow"
    assert sorted(shape for _, shape in things) == ["circle", "square"]


def test_a_prompt_of_several_chunks_shows_what_all_of_them_say_and_a_note(model):
    ground, things, notes, _ = made(model, ", ".join(["a green star on a blue background"] * 10))
    assert (ground, things) == ("blue", [("green", "star")])
    assert len(notes) == 1
    assert "averaged" in notes[0]


def test_weights_and_clip_skip_change_the_image(model):
    prompt = "a red circle on a blue background"
    *_, usual = made(model, prompt)
    for other in (made(model, "a (red:2) circle on a blue background"), made(model, prompt, clip_skip=2)):
        assert np.abs(other[3].astype(int) - usual).max() > 10
    *_, plain = made(model, prompt, prompt_syntax="plain")
    np.testing.assert_array_equal(plain, usual)
