"""CLIP tokenizers as folders have them, against transformers' reading of the same folder."""

from __future__ import annotations

import json
import shutil

import pytest
from checkpoints import write_checkpoint
from transformers import CLIPTokenizer

from converter.clip_vocabulary import tokenizer_files
from converter.convert import convert
from converter.errors import CheckpointError
from converter.plan import ConvertOptions
from converter.tokenizer import greatest_token, read_tokenizer
from server.pipeline.prompt import PromptTokenizer

END = 49407
FLAGS = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": True, "special": False}
PROMPTS = (
    "a <cat-toy> red",
    "a <CAT-TOY> and <cat-toy>_1, <cat-toy>x<cat>y",
    "<cat>",
    "<cat><cat-toy><cat-toy>_1",
    "wow! really!! <|endoftext|> then <|startoftext|>x <|ENDOFTEXT|>",
    "猫 <cat-toy>\n  <cat>\t end",
    "sks dog, sksdog, SKS",
)


def folder(path, *, pad="<|endoftext|>", **files):
    path.mkdir()
    for name, content in tokenizer_files(pad).items():
        (path / name).write_bytes(content)
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def listed(**tokens):
    own = {END - 1: "<|startoftext|>", END: "<|endoftext|>"}
    special = {str(n): FLAGS | {"content": t, "normalized": False, "special": True} for n, t in own.items()}
    return special | {number: FLAGS | token for number, token in tokens.items()}


ADDED = {"<cat-toy>": 49408, "<cat-toy>_1": 49409, "<cat>": 49410, "sks": 49411}
CONFIG = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}


def saved_whole(path):
    tokenizer = CLIPTokenizer.from_pretrained(folder(path.with_name("plain")))
    tokenizer.add_tokens(list(ADDED))
    tokenizer.save_pretrained(path)
    return path


FORMS = {
    "nothing added": folder,
    "padded with !": lambda path: folder(path, pad="!"),
    "added_tokens.json": lambda path: folder(path, added_tokens=ADDED),
    "added_tokens_decoder": lambda path: folder(
        path,
        tokenizer_config=CONFIG
        | {"added_tokens_decoder": listed(**{str(n): {"content": t} for t, n in ADDED.items()})},
    ),
    "flags": lambda path: folder(
        path,
        tokenizer_config=CONFIG
        | {
            "added_tokens_decoder": listed(
                **{
                    "49408": {"content": "<cat-toy>", "lstrip": True, "rstrip": True},
                    "49409": {"content": "sks", "single_word": True},
                    "49410": {"content": "<cat>", "normalized": False},
                }
            )
        },
    ),
    "Stable Diffusion 2's": lambda path: folder(
        path,
        tokenizer_config={key: value for key, value in CONFIG.items() if key != "pad_token"},
        special_tokens_map={"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "!"},
    ),
    "tokenizer.json alone": saved_whole,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_ids_that_transformers_gives(form, tmp_path):
    source = FORMS[form](tmp_path / "tokenizer")
    theirs = CLIPTokenizer.from_pretrained(source)
    kept = tmp_path / "kept"
    kept.mkdir()
    for name, content in read_tokenizer(source).items():
        (kept / name).write_bytes(content)
    ours = PromptTokenizer(kept, 77)
    for prompt in PROMPTS:
        expected = theirs(prompt, padding="max_length", max_length=77, truncation=True).input_ids
        assert ours.pieces(prompt, 1)[0].tolist() == [expected], prompt
    assert greatest_token(read_tokenizer(source)) == max(theirs.get_vocab().values())


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"added_tokens": {"<cat>": -1}}, "'<cat>' as number -1"),
        ({"added_tokens": {"<cat>": 1.5}}, "as number 1.5"),
        ({"added_tokens": {"": 49408}}, "as number 49408"),
        ({"added_tokens": ["<cat>"]}, "holds a list"),
        ({"added_tokens": {"<cat>": 320}}, "number 320, which is 'a</w>' in its vocabulary"),
        ({"added_tokens": {"a</w>": 49408}}, "in its vocabulary"),
        ({"added_tokens": {"<cat>": 49408, "<dog>": 49408}}, "<dog>"),
        ({"special_tokens_map": {"additional_special_tokens": ["<cat>"]}}, "'<cat>', which has no number"),
        ({"special_tokens_map": {"additional_special_tokens": [3]}}, "no token"),
        ({"tokenizer_config": CONFIG | {"added_tokens_decoder": {"x": {"content": "<cat>"}}}}, "number 'x'"),
        ({"tokenizer_config": CONFIG | {"tokenizer_class": "T5Tokenizer"}}, "tokenizer_class = 'T5Tokenizer'"),
        ({"tokenizer_config": CONFIG | {"do_lower_case": False}}, "do_lower_case"),
        ({"vocab": ["a"]}, "an object of tokens"),
        ({"vocab": {"a": -3}}, "from 0 on"),
    ],
)
def test_a_damaged_tokenizer_is_refused_with_what_is_wrong(files, words, tmp_path):
    with pytest.raises(CheckpointError, match=words.replace("(", r"\(")):
        read_tokenizer(folder(tmp_path / "tokenizer", **files))


def test_a_token_the_text_encoder_has_no_row_for_is_refused_when_it_is_converted(tmp_path):
    source = write_checkpoint(tmp_path / "source")
    rows = len(json.loads((source / "tokenizer" / "vocab.json").read_text()))
    (source / "tokenizer" / "added_tokens.json").write_text(json.dumps({"<cat>": rows}))
    with pytest.raises(CheckpointError, match=f"up to {rows}, but the text encoder has {rows} rows"):
        convert(source, tmp_path / "out", ConvertOptions(), lambda progress: None)
    shutil.rmtree(source)
