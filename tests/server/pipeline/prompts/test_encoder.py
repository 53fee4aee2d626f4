"""States of prompts against transformers' text encoders, with AUTOMATIC1111's weights computed beside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from converter.conversion.convert import convert
from converter.folder import ModelFolder
from converter.options import ConvertOptions
from converter.runtime import load
from converter.verification.verify import psnr
from server.pipeline.prompts.encoder import PromptEncoder, emphasized, joined, limited
from server.pipeline.prompts.tokenizer import prompt_tokenizers
from tests.support.checkpoints import write_checkpoint

LEAST_DB = 50


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = write_checkpoint(tmp_path_factory.mktemp("prompts") / "source")
    file = folder / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    # As in trained encoders, and unlike in new ones, the mean of the states is not 0.
    weights["text_model.final_layer_norm.bias"] += 0.2
    save_file(weights, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory) -> ModelFolder:
    return convert(source, tmp_path_factory.mktemp("prompts") / "out", ConvertOptions(clip_skip=2, verify=False))


@pytest.fixture(scope="module")
def theirs(source):
    """(words with their weights, whether the last layer is skipped) -> A1111's states of one chunk, in PyTorch."""
    tokenizer = CLIPTokenizer.from_pretrained(source / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(source / "text_encoder", dtype=torch.float32).eval()

    @torch.no_grad()
    def states(words, skip=1):
        ids, weights = [tokenizer.bos_token_id], [1.0]
        for text, weight in words:
            own = tokenizer(text, add_special_tokens=False).input_ids
            ids, weights = ids + own, weights + [weight] * len(own)
        rest = 77 - len(ids)
        ids, weights = ids + [tokenizer.eos_token_id] * rest, weights + [1.0] * rest
        outputs = encoder(torch.tensor([ids]), output_hidden_states=True)
        z = outputs.last_hidden_state if skip == 1 else encoder.final_layer_norm(outputs.hidden_states[-skip])
        before = z.mean()
        z = z * torch.tensor(weights)[None, :, None]
        return (z * (before / z.mean())).numpy()

    return states


def encoder_of(folder, **settings):
    calls = []

    def network(name):
        calls.append(name)
        return load(folder.package(name))

    encoder = PromptEncoder(prompt_tokenizers(folder), network, **settings)
    return encoder, calls


def states_of(folder, prompt, places=1, **settings):
    encoder, _ = encoder_of(folder, **settings)
    return encoder.encode(encoder.chunks(prompt), places).states


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a red blue", [("a red blue", 1.0)]),
        ("a (red:1.4) [blue]", [("a ", 1.0), ("red", 1.4), (" ", 1.0), ("blue", 1 / 1.1)]),
        ("(a:0) ((red)), \\(blue\\)", [("a", 0.0), (" ", 1.0), ("red", 1.1 * 1.1), (", (blue)", 1.0)]),
        ("(red:-1) blue", [("red", -1.0), (" blue", 1.0)]),
    ],
)
def test_weights_are_those_of_a1111(folder, theirs, prompt, words):
    actual = states_of(folder, prompt)
    assert psnr(actual, theirs(words)) > LEAST_DB
    if len(words) > 1:
        assert psnr(actual, theirs([(text, 1.0) for text, _ in words])) < LEAST_DB - 10


def test_weights_come_after_the_skipped_layers(folder, theirs):
    words = [("a ", 1.0), ("red", 1.4)]
    actual = states_of(folder, "a (red:1.4)", clip_skip=2)
    assert psnr(actual, theirs(words, skip=2)) > LEAST_DB
    assert psnr(actual, theirs(words)) < LEAST_DB


def test_chunks_stand_side_by_side_each_with_its_own_mean(folder, theirs):
    expected = np.concatenate([theirs([("(red", 1.4)]), theirs([("blue", 1.0)]), theirs([])], 1)
    assert psnr(states_of(folder, r"(\(red:1.4) BREAK blue", 3), expected) > LEAST_DB


def test_chunks_that_have_no_place_are_averaged_in_the_last_one(folder, theirs):
    red, blue, a = theirs([("red", 1.4)]), theirs([("blue", 1.0)]), theirs([("a", 1.0)])
    prompt = "(red:1.4) BREAK blue BREAK a"
    assert psnr(states_of(folder, prompt), (red + blue + a) / 3) > LEAST_DB
    assert psnr(states_of(folder, prompt, 2), np.concatenate([red, (blue + a) / 2], 1)) > LEAST_DB
    encoder, _ = encoder_of(folder)
    (note,) = encoder.notes(encoder.chunks(prompt), 2)
    assert note == (
        "a prompt takes 3 chunks of 75 tokens and this model's UNet takes 150 tokens: the states of the last 2 chunks were "
        "averaged"
    )
    assert list(encoder.notes(encoder.chunks(prompt), 3)) == []


def test_a_plain_prompt_is_text_and_its_end_is_left_out_with_a_note(folder, theirs):
    encoder, _ = encoder_of(folder, with_syntax=False)
    brackets = "(red:1.4) BREAK "
    (tokenizer,) = encoder.tokenizers.values()
    chunks = encoder.chunks(brackets + "blue " * 75)
    states = encoder.encode(chunks, 1).states
    assert psnr(states, theirs([(brackets + "blue " * (75 - len(tokenizer.ids(brackets))), 1.0)])) > LEAST_DB
    assert list(encoder.notes(chunks, 1)) == [
        "this model's UNet takes 75 tokens: what follows them in a prompt was left out"
    ]


def test_nothing_is_encoded_twice(folder):
    encoder, calls = encoder_of(folder)
    for prompt in ("red BREAK blue", "red BREAK a", "(red:1.2)"):
        encoder.encode(encoder.chunks(prompt), 2)
    assert len(calls) == 4  # red, blue, a, and nothing


def test_weights_have_limits_with_a_note(folder):
    encoder, _ = encoder_of(folder)
    chunks = encoder.chunks("(" * 3_000 + "red" + ":9)" * 2_000)
    assert np.isfinite(encoder.encode(chunks, 1).states).all()
    assert list(encoder.notes(chunks, 1)) == ["a weight in a prompt is beyond 100 and counts as 100"]
    assert [limited(weight) for weight in (-1e9, 1.5, float("inf"), float("nan"))] == [-100, 1.5, 100, 100]


def test_weights_of_one_change_nothing_and_a_mean_of_nearly_nothing_is_not_restored():
    states = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    weights = np.asarray([1, 2, 1], np.float32)
    assert emphasized(states, np.ones(3, np.float32)) is states
    assert emphasized(states, weights).mean() == pytest.approx(states.mean())
    assert emphasized(states, np.zeros(3, np.float32)).tolist() == np.zeros_like(states).tolist()
    centered = states - states.mean() + 1e-3
    assert emphasized(centered, weights).tolist() == (centered * weights[:, None]).tolist()


def test_as_many_chunks_as_places_are_joined_unchanged():
    chunks = [np.full((1, 2, 1), n, np.float32) for n in (1, 2, 6)]
    assert joined(chunks, 3)[0, :, 0].tolist() == [1, 1, 2, 2, 6, 6]
    assert joined(chunks, 2)[0, :, 0].tolist() == [1, 1, 4, 4]
    assert joined(chunks, 1)[0, :, 0].tolist() == [3, 3]
