"""CLIP tokenizers as folders have them, against transformers' reading of the same folder."""

from __future__ import annotations

import json
import shutil
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from converter.conversion.convert import convert
from converter.errors import CheckpointError
from converter.options import ConvertOptions
from converter.runtime.mil import MILNetwork
from converter.sources.clip_vocabulary import tokenizer_files
from converter.sources.tokenizer import greatest_token, read_tokenizer
from converter.verification.verify import psnr
from server.pipeline.prompts.tokenizer import PromptTokenizer
from tests.support.checkpoints import write_checkpoint, write_tokenizer, write_xl_checkpoint

END = 49407
NORMALIZED = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
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


def ids_of(tokenizer, prompt):
    return tokenizer.padded(tokenizer.ids(prompt)[: tokenizer.room]).tolist()


ADDED = {"<cat-toy>": 49408, "<cat-toy>_1": 49409, "<cat>": 49410, "sks": 49411}
CONFIG = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}


def saved_whole(path):
    tokenizer = CLIPTokenizer.from_pretrained(folder(path.with_name("plain")))
    tokenizer.add_tokens(list(ADDED))
    tokenizer.save_pretrained(path)
    return path


def whole_beside_split(path):
    saved_whole(path)
    for name in ("vocab.json", "merges.txt"):
        (path / name).write_bytes(tokenizer_files("<|endoftext|>")[name])
    return path


#: As the published folders of Stable Diffusion 1.5 and XL have them.
PUBLISHED = {
    "bos_token": {"content": "<|startoftext|>"} | NORMALIZED,
    "eos_token": {"content": "<|endoftext|>"} | NORMALIZED,
    "unk_token": {"content": "<|endoftext|>"} | NORMALIZED,
}
FORMS = {
    "Stable Diffusion 1.5's": lambda path: folder(
        path, tokenizer_config=CONFIG, special_tokens_map=PUBLISHED | {"pad_token": "<|endoftext|>"}
    ),
    "Stable Diffusion XL's second": lambda path: folder(
        path, tokenizer_config=CONFIG | {"pad_token": "!"}, special_tokens_map=PUBLISHED | {"pad_token": "!"}
    ),
    "special and without a number": lambda path: folder(
        path, tokenizer_config=CONFIG, special_tokens_map=PUBLISHED | {"additional_special_tokens": ["<cat>", "sks"]}
    ),
    "tokenizer.json beside an older vocabulary": lambda path: whole_beside_split(path),
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


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_ids_that_transformers_gives(form, tmp_path):
    source = FORMS[form](tmp_path / "tokenizer")
    theirs = CLIPTokenizer.from_pretrained(source)
    kept = tmp_path / "kept"
    kept.mkdir()
    for name, content in read_tokenizer(source).items():
        (kept / name).write_bytes(content)
    ours, theirs_of_kept = PromptTokenizer(kept, 77), CLIPTokenizer.from_pretrained(kept)
    for prompt in PROMPTS:
        expected = theirs(prompt, padding="max_length", max_length=77, truncation=True).input_ids
        assert ids_of(ours, prompt) == [expected], prompt
        assert theirs_of_kept(prompt, padding="max_length", max_length=77, truncation=True).input_ids == expected
    assert greatest_token(read_tokenizer(source)) == max(theirs.get_vocab().values())


def any_token(random, text, **said):
    flags = {flag: random.random() < 0.3 for flag in ("lstrip", "rstrip", "single_word", "normalized")}
    return {"content": text} | flags | said


def any_folder(random, path):
    """A tokenizer folder such as some version of transformers might have saved, saying what it may at random."""
    begin, end = "<|startoftext|>", "<|endoftext|>"
    size = write_tokenizer(path)
    texts = random.sample(["<cat>", "<cat-toy>", "<cat-toy>_1", "sks", "Ünï", "猫", "a b", "_x", "ñu"], 4)
    numbers = {text: size + i for i, text in enumerate(texts)}
    config = json.loads((path / "tokenizer_config.json").read_text()) | {"pad_token": random.choice([end, "!"])}
    special = {}
    for key, text in (("bos_token", begin), ("eos_token", end), ("unk_token", end), ("pad_token", "!")):
        for said, more in ((config, {"__type": "AddedToken"}), (special, {})):
            if random.random() < 0.4 and not (key == "pad_token" and said is config):
                said[key] = random.choice([text, any_token(random, text, **more)])
    form = random.choice(["added_tokens.json", "added_tokens_decoder", "tokenizer.json"])
    if form == "added_tokens_decoder":
        config[form] = {str(n): any_token(random, t, special=random.random() < 0.3) for t, n in numbers.items()}
        if random.random() < 0.7:
            for number, text in ((size - 2, begin), (size - 1, end)):
                config[form][str(number)] = any_token(random, text, special=True)
    else:
        special["additional_special_tokens"] = random.sample(texts, 2)
    if form == "added_tokens.json":
        (path / form).write_text(json.dumps(numbers))
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    (path / "special_tokens_map.json").write_text(json.dumps(special))
    if form != "tokenizer.json":
        return path
    tokenizer = CLIPTokenizer.from_pretrained(path)
    tokenizer.add_tokens([AddedToken(**any_token(random, text)) for text in texts])
    tokenizer.save_pretrained(path.with_suffix(".whole"))
    return path.with_suffix(".whole")


@pytest.mark.parametrize("seed", range(30))
def test_whatever_a_folder_says_its_prompts_are_read_as_transformers_reads_them(seed, tmp_path):
    random = Random(seed)
    source = any_folder(random, tmp_path / "tokenizer")
    theirs = CLIPTokenizer.from_pretrained(source)
    kept = tmp_path / "kept"
    kept.mkdir()
    for name, content in read_tokenizer(source).items():
        (kept / name).write_bytes(content)
    ours = PromptTokenizer(kept, 77)
    bits = [
        "<cat>",
        "<cat-toy>",
        "<cat-toy>_1",
        "sks",
        "SKS",
        "Ünï",
        "猫",
        "a b",
        "_x",
        "n\u0303u",
        "red",
        "!",
        " ",
        "\n",
    ]
    bits += ["<", "1", "'s", "<CAT-TOY>", "<|startoftext|>", "<|endoftext|>", "<|STARTOFTEXT|>", "<|ENDOFTEXT|>"]
    for _ in range(40):
        prompt = "".join(random.choices(bits, k=random.randrange(1, 8)))
        expected = theirs(prompt, padding="max_length", max_length=77, truncation=True).input_ids
        assert ids_of(ours, prompt) == [expected], prompt


@pytest.mark.parametrize(
    "prompt", ["\0", "a\0b", "red " * 25_000, "<|endoftext|>" * 8_000, "\x7f\u200b\ufeff", "\U0010ffff"]
)
def test_no_prompt_is_too_odd(prompt, tmp_path):
    source = folder(tmp_path / "tokenizer")
    expected = CLIPTokenizer.from_pretrained(source)(prompt, padding="max_length", max_length=77, truncation=True)
    assert ids_of(PromptTokenizer(source, 77), prompt) == [expected.input_ids]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"added_tokens": {"<cat>": -1}}, "'<cat>' as number -1"),
        ({"added_tokens": {"<cat>": 1.5}}, "as number 1.5"),
        ({"added_tokens": {"": 49408}}, "has '' for a token"),
        ({"added_tokens": ["<cat>"]}, "has a list; an object"),
        ({"added_tokens": {"<cat>": 320}}, "number 320, which is 'a</w>' in its vocabulary"),
        ({"added_tokens": {"a</w>": 49408}}, "in its vocabulary"),
        ({"added_tokens": {"<cat>": 49408, "<dog>": 49408}}, "<dog>"),
        ({"added_tokens": {"<cat>": True}}, "as number True"),
        ({"special_tokens_map": {"additional_special_tokens": [3]}}, "has 3 for a token"),
        ({"special_tokens_map": {"additional_special_tokens": 3}}, "has a int where a list of tokens"),
        ({"special_tokens_map": {"eos_token": {"content": None}}}, "for a token"),
        ({"tokenizer_config": CONFIG | {"eos_token": {"content": "<|endoftext|>", "lstrip": "no"}}}, "for a token"),
        ({"tokenizer_config": CONFIG | {"added_tokens_decoder": [1]}}, "has a list where a dict of tokens"),
        ({"tokenizer_config": CONFIG | {"added_tokens_decoder": {"²": {"content": "<cat>"}}}}, "number '²'"),
        ({"tokenizer": {"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": ["<cat>"]}}, "has a str"),
        ({"tokenizer": {"model": {"type": "WordPiece"}}}, "not a BPE tokenizer"),
        ({"tokenizer_config": CONFIG | {"added_tokens_decoder": {"x": {"content": "<cat>"}}}}, "number 'x'"),
        ({"tokenizer_config": CONFIG | {"tokenizer_class": "T5Tokenizer"}}, "tokenizer_class = 'T5Tokenizer'"),
        ({"tokenizer_config": CONFIG | {"do_lower_case": False}}, "do_lower_case"),
        ({"vocab": ["a"]}, "an object of tokens"),
        ({"vocab": {"a": -3}}, "from 0"),
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
        convert(source, tmp_path / "out", ConvertOptions())
    shutil.rmtree(source)


def with_a_token(source, token, *, end):
    """Add a token to both tokenizers and a row to both text encoders, as textual inversion does."""
    torch.manual_seed(5)
    for number, name in enumerate(("tokenizer", "tokenizer_2")):
        rows = len(json.loads((source / name / "vocab.json").read_text()))
        # The second knows the token by another number, beyond a row that nothing names.
        (source / name / "added_tokens.json").write_text(json.dumps({token: rows + number}))
        encoder = source / name.replace("tokenizer", "text_encoder")
        weights = load_file(encoder / "model.safetensors")
        key = next(key for key in weights if key.endswith("token_embedding.weight"))
        weights[key] = torch.cat([weights[key], torch.randn(2, weights[key].shape[1]).to(weights[key].dtype)])
        save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((encoder / "config.json").read_text())
        changed = {"vocab_size": rows + 2, "eos_token_id": 2 if end == "legacy" else rows - 1}
        (encoder / "config.json").write_text(json.dumps(config | changed))
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("end", ["legacy", "said"])
def test_a_pooled_prompt_with_an_added_token_is_transformers(end, tmp_path):
    # Configurations from before transformers 4.31 call the end 2, and mean the greatest number in a prompt: with an added
    # token that is not the end any more (modeling_clip.py), and the image it gives is nevertheless theirs.
    source = write_xl_checkpoint(tmp_path / "source")
    rows = with_a_token(source, "<cat>", end=end)
    made = convert(source, tmp_path / "out", ConvertOptions())  # verified, too
    for name, number in (("tokenizer", rows), ("tokenizer_2", rows + 1)):
        ids = np.asarray(ids_of(PromptTokenizer(made.tokenizer(name), 77), "red <cat> blue"), np.float32)
        assert ids[0, 2] == number
    reference = CLIPTextModelWithProjection.from_pretrained(source / "text_encoder_2", dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = reference(torch.from_numpy(ids).long()).text_embeds.numpy()
        at_the_end = reference(torch.from_numpy(np.where(ids == number, 5, ids)).long()).text_embeds.numpy()
    actual = MILNetwork(made.package("text_encoder_2")).predict({"input_ids": ids})["pooled_outputs"]
    assert psnr(actual, expected) > 60
    assert psnr(at_the_end, expected) < 40


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda text: text.decode().encode("utf-16"),
            r"merges\.txt is not text in UTF-8: invalid start byte at byte 0",
        ),
        (lambda text: text[: len(text) // 2] + b"x y\n", r"merges\.txt has .* in line \d+; two tokens are accepted"),
        (lambda text: text + b"one\n", r"merges\.txt has 'one' in line \d+"),
        (lambda text: text + b"a b c\n", r"merges\.txt has 'a b c' in line \d+"),
        (lambda text: text + b"a qzqzq\n", r"merges\.txt has 'a qzqzq' in line \d+"),
    ],
)
def test_merges_that_the_tokenizer_would_refuse_are_refused_when_it_is_read(tmp_path, change, words):
    path = folder(tmp_path / "tokenizer")
    merges = path / "merges.txt"
    merges.write_bytes(merges.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    read_tokenizer(path)
    merges.write_bytes(change(merges.read_bytes()))
    with pytest.raises(CheckpointError, match=words):
        read_tokenizer(path)
