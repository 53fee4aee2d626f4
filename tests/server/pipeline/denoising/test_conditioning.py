"""The UNet's inputs at each step, from prompts that change."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from converter.conversion.convert import convert
from converter.folder import ModelFolder
from converter.options import ConvertOptions
from converter.runtime import load
from server.pipeline.denoising.conditioning import Conditioner, Conditioning
from server.pipeline.denoising.denoiser import Moment, Note
from server.pipeline.prompts.editing import Walk
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion


@pytest.fixture(scope="module")
def once(checkpoint, tmp_path_factory) -> ModelFolder:
    """The tiny checkpoint with a network for the prompts' keys and values, which takes two prompts at once."""
    options = ConvertOptions(prompt_once=True, verify=False)
    return convert(checkpoint, tmp_path_factory.mktemp("once") / "out", options)


def conditioning_of(folder: ModelFolder, **fields) -> tuple[Conditioning, Counter[str]]:
    """Return the conditioning of a request, and the calls of each network that it took."""
    calls: Counter[str] = Counter()

    class Counted:
        def __init__(self, name: str) -> None:
            self._name, self._network = name, load(folder.package(name))
            self.inputs, self.outputs = self._network.inputs, self._network.outputs

        def predict(self, inputs):
            calls[self._name] += 1
            return self._network.predict(inputs)

    networks: dict[str, Counted] = {}

    def network(name: str, **_: int) -> Counted:
        return networks.setdefault(name, Counted(name))

    request = bind(folder.manifest, seed=1, **fields)
    return Conditioner(folder, network).conditioning(request), calls


def rows(conditioning: Conditioning, calls: int, first_call: int = 0):
    return [conditioning.at(Moment(call, calls, 1.0, 1.0, first_call)) for call in range(first_call, calls)]


def test_an_edit_changes_the_rows_at_its_step(model_folder):
    edited, _ = conditioning_of(model_folder, prompt="[red:blue:0.5]", negative_prompt="[a|b]", steps=4)
    red, blue, a, b = (
        conditioning_of(model_folder, prompt=text, negative_prompt=text, steps=4)[0].steps[0]
        for text in ("red", "blue", "a", "b")
    )
    for step, positive, negative in zip(rows(edited, 4), (red, red, blue, blue), (a, b, a, b), strict=True):
        (actual,) = step.positives
        np.testing.assert_array_equal(
            actual.inputs["encoder_hidden_states"], positive.positives[0].inputs["encoder_hidden_states"]
        )
        np.testing.assert_array_equal(
            step.negative.inputs["encoder_hidden_states"], negative.negative.inputs["encoder_hidden_states"]
        )


def test_a_step_of_several_calls_has_one_text_and_img2img_counts_its_own_steps(model_folder):
    edited, _ = conditioning_of(model_folder, prompt="[red:blue:1]", steps=3)
    first, *others = edited.steps
    assert rows(edited, 6) == [first, first, *others[:1] * 2, *others[1:] * 2]
    assert rows(edited, 5)[:3] == [first, first, others[0]]  # Heun's last step takes one call
    assert rows(edited, 10, first_call=7) == list(edited.steps)


def test_prompts_joined_by_and_are_rows_with_weights(model_folder):
    both, calls = conditioning_of(model_folder, prompt="red AND blue :0.7 AND red :-1", steps=5)
    (step, *_) = both.steps
    assert [row.weight for row in step.positives] == [1.0, 0.7, -1.0]
    assert step.positives[0].inputs is step.positives[2].inputs
    assert calls["text_encoder"] == 3  # red, blue, and nothing


def test_each_text_is_encoded_once_however_often_it_stands(once):
    prompt = "[red|blue|a] [b:c:0.5]"
    conditioning, calls = conditioning_of(once, prompt=prompt, negative_prompt="[d:e:3]", steps=30)
    assert len(conditioning.steps) == 30
    # 3 texts in each half, and 2 negative ones; the keys' network takes two at once.
    assert calls == {"text_encoder": 8, "unet_prompt": 4}
    assert {"keys_0", "values_0"} <= set(conditioning.steps[0].positives[0].inputs)


def test_without_guidance_there_is_no_negative_prompt(model_folder):
    unguided, calls = conditioning_of(model_folder, prompt="red", negative_prompt="blue", guidance_scale=1)
    assert unguided.steps[0].negative is None
    assert calls["text_encoder"] == 1


def test_a_plain_prompt_is_as_it_stands(model_folder):
    def states(**fields):
        return conditioning_of(model_folder, **fields)[0].steps[0].positives[0].inputs["encoder_hidden_states"]

    plain = states(prompt="(red:1.4)", prompt_syntax="plain")
    np.testing.assert_array_equal(plain, states(prompt=r"\(red:1.4\)"))
    assert np.abs(plain - states(prompt="(red:1.4)")).max() > 0.1
    np.testing.assert_array_equal(states(prompt="red", prompt_syntax="plain"), states(prompt="red"))


def test_a_job_says_that_chunks_were_averaged(model_folder):
    model = StableDiffusion(model_folder, {})
    request = bind(model.manifest, prompt="red " * 80, negative_prompt="(red:101)", steps=1, seed=1)
    notes = [event.text for event in model.generate(request, {}) if isinstance(event, Note)]
    assert [note[:50] for note in notes] == [
        "a prompt takes 2 chunks of 75 tokens and this mode",
        "a weight in a prompt is beyond 100 and counts as 1",
    ]


def test_a_second_pass_has_the_texts_after_the_first(model_folder):
    request = bind(model_folder.manifest, prompt="[red:blue:0.5] [a:b:1.5]", steps=4, seed=1, guidance_scale=1)
    conditioner = Conditioner(model_folder, lambda name, **_: load(model_folder.package(name)))
    second = conditioner.conditioning(request, Walk(2, earlier=4))
    expected = [
        conditioning_of(model_folder, prompt=text, guidance_scale=1)[0].steps[0] for text in ("blue a", "blue b")
    ]
    for step, other in zip(second.steps, expected, strict=True):
        states = [row.positives[0].inputs["encoder_hidden_states"] for row in (step, other)]
        np.testing.assert_array_equal(*states)
