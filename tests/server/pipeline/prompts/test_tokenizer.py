"""Prompts against transformers' CLIPTokenizer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from transformers import CLIPTokenizer

from converter.errors import ManifestError
from server.pipeline.prompts.embedded import EmbeddedWords
from server.pipeline.prompts.tokenizer import PromptTokenizer
from tests.support.checkpoints import write_tokenizer


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "red blue",
        "A Red  circle,\n on BLUE!",
        "it's 12 o'clock",
        "héllo wörld ÅÄÖ ß",
        "🎈🎉 balloons 日本語",
        'a-b_c (d) [e] :: f... "quoted"',
        "word " * 100,
        "x" * 300,
        "tab\tand\u00a0nbsp",
    ],
)
def test_a_prompt_has_the_ids_transformers_gives_it(checkpoint, prompt):
    theirs = CLIPTokenizer.from_pretrained(checkpoint / "tokenizer")
    expected = theirs(prompt, padding="max_length", max_length=77, truncation=True).input_ids
    tokenizer = PromptTokenizer(checkpoint / "tokenizer", 77)
    ids = tokenizer.padded(tokenizer.ids(prompt)[: tokenizer.room])
    assert ids.dtype == np.float32
    assert ids.tolist() == [expected]


def test_a_comma_is_known_by_its_number(checkpoint):
    tokenizer = PromptTokenizer(checkpoint / "tokenizer", 77)
    assert tokenizer.ids(",") == [tokenizer.comma]


def test_the_pad_token_is_the_tokenizers_own(checkpoint, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((checkpoint / "tokenizer" / name).read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "!"}}))
    ids = PromptTokenizer(tmp_path, 77).padded([1])
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    assert ids[0, -1] == vocabulary["!"]


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[1]", b"[" * 100_000, b"q w\n", b'{"added_tokens_decoder": {"a": 1}}']
)
def test_a_damaged_tokenizer_is_named(tmp_path, file, content):
    write_tokenizer(tmp_path)
    (tmp_path / file).write_bytes(content)
    if file == "merges.txt" and content in (b"", b"[1]", b"[" * 100_000):
        PromptTokenizer(tmp_path, 77)  # lines without a pair are no merges
        return
    with pytest.raises(ManifestError, match=str(tmp_path)):
        PromptTokenizer(tmp_path, 77)


def test_words_of_an_embedding_are_its_tokens_in_any_case_and_the_longest_counts(checkpoint):
    plain = PromptTokenizer(checkpoint / "tokenizer", 77)
    red, embedded = EmbeddedWords(("red",), (900, 901)), EmbeddedWords(("Red blue", "<cat-toy>"), (902,))
    tokenizer = PromptTokenizer(checkpoint / "tokenizer", 77, [red, embedded])
    a, comma = plain.ids("a"), plain.ids(",")
    assert tokenizer.ids("a RED, red  blue") == [*a, 900, 901, *comma, 902]
    assert list(tokenizer.words("red")) == [(900, 901)]
    assert tokenizer.ids("reddish blue") == plain.ids("reddish blue")
    assert tokenizer.ids("a<Cat-Toy>a") == [*a, 902, *a]
    assert tokenizer.ids("a blue circle") == plain.ids("a blue circle")
