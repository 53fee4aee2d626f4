"""CLIP's tokenizer as written for single files, against the ids the published one gives."""

from __future__ import annotations

import json

import pytest
from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from converter.sources.clip_vocabulary import SIZE, merges, tokenizer_files, vocabulary

#: Ids of openai/clip-vit-large-patch14, as documentation and issues of transformers and diffusers show them.
PUBLISHED = {
    "a photo of a cat": [49406, 320, 1125, 539, 320, 2368, 49407],
    "a photo of a dog": [49406, 320, 1125, 539, 320, 1929, 49407],
    "a photograph of an astronaut riding a horse": [49406, 320, 8853, 539, 550, 18376, 6765, 320, 4558, 49407],
    "a diagram": [49406, 320, 22697, 49407],
    "hello world!": [49406, 3306, 1002, 256, 49407],
}


def written(folder, pad_token):
    for name, content in tokenizer_files(pad_token).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written(tmp_path_factory.mktemp("tokenizer"), "<|endoftext|>")


@pytest.mark.parametrize("prompt", list(PUBLISHED))
def test_prompts_have_the_published_ids(prompt, folder):
    assert CLIPTokenizer.from_pretrained(folder)(prompt)["input_ids"] == PUBLISHED[prompt]


@pytest.mark.parametrize("prompt", ["ünïcödé café", "日本の庭", "привет мир", "🙂", "\x00\x7f", "¬®"])
def test_whatever_is_typed_has_ids_and_comes_back(prompt, folder):
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt)["input_ids"]
    assert 49407 not in ids[1:-1]  # which stands for what is unknown, too
    assert tokenizer.decode(ids, skip_special_tokens=True) == prompt


def test_the_vocabulary_is_the_published_one():
    actual = vocabulary()
    assert len(actual) == SIZE == 49408
    assert sorted(actual.values()) == list(range(SIZE))
    assert {character for character in actual if len(character) == 1} == set(pre_tokenizers.ByteLevel.alphabet())
    for token, index in {"!": 0, "~": 93, "¡": 94, "Ā": 188, "!</w>": 256, "in": 512, "th": 513}.items():
        assert actual[token] == index, token
    assert (actual["<|startoftext|>"], actual["<|endoftext|>"]) == (49406, 49407)
    assert len(merges()) == 48894


@pytest.mark.parametrize(("pad_token", "pad"), [("<|endoftext|>", 49407), ("!", 0)])
def test_prompts_are_filled_up_with_the_token_asked_for(pad_token, pad, tmp_path):
    tokenizer = CLIPTokenizer.from_pretrained(written(tmp_path, pad_token))
    ids = tokenizer("a cat", padding="max_length", max_length=10)["input_ids"]
    assert ids == [49406, 320, 2368, 49407] + [pad] * 6


def test_the_files_are_those_transformers_saves(folder):
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    assert lines[:3] == ["#version: 0.2", "i n", "t h"]
    assert len(lines) == 1 + 48894 + 1
    assert json.loads((folder / "vocab.json").read_text(encoding="utf-8"))["cat</w>"] == 2368
