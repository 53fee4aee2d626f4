"""Every kind of source behind one interface."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from converter.conversion.convert import convert
from converter.errors import CheckpointError
from converter.families.registry import recognize
from converter.manifest import Manifest
from converter.options import ConvertOptions
from converter.sources.checkpoint import Checkpoint
from converter.sources.clip_vocabulary import tokenizer_files
from converter.sources.single_file import SingleFile
from converter.sources.source import open_source
from tests.support.single_files import TINY_UNETS, tiny, write

END, BANG = 49407, 0


def a_copy(checkpoint, folder):
    shutil.copytree(checkpoint, folder)
    return folder


def diffusers_folder(folder, family):
    """A tiny model of a family as diffusers saves it, and its single file beside it: (folder, file)."""
    modules, state = tiny(family)
    file = write(folder / f"{family}.safetensors", state)
    single, out = SingleFile.open(file), folder / family
    for name, module in copy.deepcopy(modules).items():
        if family == "sd2" and name == "text_encoder":
            module.encoder.layers = module.encoder.layers[:23]
            module.config.num_hidden_layers = 23
        module.to(torch.float16).save_pretrained(out / name)
        if name.startswith("text_encoder"):
            config = json.loads((out / name / "config.json").read_text())
            config["hidden_act"] = single.config(name)["hidden_act"]
            (out / name / "config.json").write_text(json.dumps(config))
            tokenizer = out / name.replace("text_encoder", "tokenizer")
            tokenizer.mkdir()
            for file_name, content in tokenizer_files("<|endoftext|>").items():
                (tokenizer / file_name).write_bytes(content)
    (out / "scheduler").mkdir()
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(single.config("scheduler")))
    (out / "model_index.json").write_text(json.dumps(single.index))
    return out, file


@pytest.mark.parametrize("family", list(TINY_UNETS))
def test_a_single_file_is_recognized_as_the_folder_is(family, tmp_path):
    folder, file = (open_source(path) for path in diffusers_folder(tmp_path, family))
    assert (folder.name, folder.kind, file.name, file.kind) == (family, "diffusers", family, "single_file")
    assert recognize(file) == recognize(folder)
    assert recognize(file).name == family
    for component in ("text_encoder", "text_encoder_2", "unet", "vae"):
        assert file.has(component) == folder.has(component)


@pytest.mark.slow
def test_a_single_file_is_converted_to_the_weights_of_the_folder(tmp_path):
    options, actual = ConvertOptions(name="m", sizes=((64, 64),), verify=False), []
    for number, source in enumerate(diffusers_folder(tmp_path, "sd1")):
        made = convert(source, tmp_path / str(number), options)
        paths = sorted(made.path.rglob("weight.bin"))
        actual.append([(p.relative_to(made.path), hashlib.sha256(p.read_bytes()).hexdigest()) for p in paths])
        manifest = Manifest.read(made.path)
        assert (manifest.source.kind, manifest.source.path_or_id) == (("diffusers", "single_file")[number], "sd1")
        assert CLIPTokenizer.from_pretrained(made.path / "tokenizer")("a cat")["input_ids"] == [49406, 320, 2368, END]
    assert actual[0] == actual[1]
    assert len(actual[0]) == 4


@pytest.mark.parametrize(
    ("family", "pads"),
    [
        ("sd1", {"tokenizer": END}),
        ("sd2", {"tokenizer": BANG}),
        ("sdxl", {"tokenizer": END, "tokenizer_2": BANG}),
        ("sdxl_refiner", {"tokenizer_2": BANG}),
    ],
)
def test_a_single_file_s_tokenizers_pad_as_the_published_ones(family, pads, tmp_path):
    files = SingleFile.open(write(tmp_path / "m.safetensors", tiny(family)[1])).tokenizer_files()
    assert set(files) == set(pads)
    for name, pad in pads.items():
        for file, content in files[name].items():
            (tmp_path / file).write_bytes(content)
        ids = CLIPTokenizer.from_pretrained(tmp_path)("a cat", padding="max_length", max_length=8)["input_ids"]
        assert ids == [49406, 320, 2368, END, *[pad] * 4]


def test_a_refiner_and_an_inpainting_file_say_which_pipeline_they_are_for(tmp_path):
    refiner = SingleFile.open(write(tmp_path / "r.safetensors", tiny("sdxl_refiner")[1]))
    assert refiner.index["force_zeros_for_empty_prompt"] is False
    inpainting = SingleFile.open(write(tmp_path / "i.safetensors", tiny("sd1", in_channels=9)[1]))
    assert inpainting.index["_class_name"] == "StableDiffusionInpaintPipeline"


def test_a_text_encoder_with_another_vocabulary_is_refused(tmp_path):
    _, state = tiny("sd1")
    name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    path = write(tmp_path / "m.safetensors", state | {name: state[name][:21128]})
    with pytest.raises(CheckpointError, match="has 21128 rows; at least 49408 are accepted"):
        open_source(path)
    more = torch.cat([state[name], torch.zeros(2, 64)])
    assert open_source(write(tmp_path / "more.safetensors", state | {name: more})).has("unet")


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "MODEL.PT", "model.pth", "not-there.ckpt"])
def test_pickles_are_refused_whatever_is_in_them(name, tmp_path):
    if not name.startswith("not"):
        (tmp_path / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointError, match=r"can run any code when read, so they are refused. Get the safetensors"):
        open_source(tmp_path / name)


@pytest.mark.parametrize(
    "given", ["not/there/at/all", "./owner/name", "~/no-such-model", "/no/such/model", "model", "https://x.org/a/b", ""]
)
def test_what_is_neither_a_path_nor_an_address_is_refused(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"owner/name of a repository on the Hugging Face hub .* is accepted|index.json"
    ):
        open_source(given)


def test_a_mistyped_path_is_not_asked_for_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("converter.sources.hub.fetch", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match="models/dremshaper does not exist"):
        open_source("models/dremshaper")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="is not a safetensors file; a diffusers checkpoint folder"):
        open_source(tmp_path / "model.gguf")


def test_a_folder_that_holds_a_single_file_says_to_give_the_file(tmp_path):
    (tmp_path / "mix.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no model_index.json, but mix.safetensors; .* give the file itself"):
        open_source(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_prediction_type_asked_for_overrules_and_is_another_model(kind, checkpoint, tmp_path):
    path = checkpoint if kind == "folder" else write(tmp_path / "m.safetensors", tiny("sd1")[1])
    plain, asked = open_source(path), open_source(path, prediction_type="v_prediction")
    assert plain.config("scheduler")["prediction_type"] == "epsilon"
    assert recognize(asked).prediction_type == "v_prediction"
    assert plain.sha256 != asked.sha256
    assert plain.stamp != asked.stamp
    with pytest.raises(CheckpointError, match="'v' is not one of epsilon, v_prediction, sample"):
        open_source(path, prediction_type="v")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_stamp_reads_no_weights_and_changes_with_the_files(kind, checkpoint, tmp_path):
    if kind == "folder":
        source = a_copy(checkpoint, tmp_path / "model")
        weights = source / "unet" / "diffusion_pytorch_model.safetensors"
    else:
        source = weights = write(tmp_path / "m.safetensors", tiny("sd1")[1])
    first, read = open_source(source), open_source(source).sha256
    before, size = first.stamp, weights.stat().st_size
    with weights.open("r+b") as file:  # the last tensor's bytes
        file.seek(-2, os.SEEK_END)
        file.write(b"\x00\x01")
    os.utime(weights, ns=(1, 1))
    assert weights.stat().st_size == size
    assert open_source(source).stamp != before
    assert open_source(source).sha256 != read


def test_a_file_is_known_by_its_own_hash(tmp_path):
    path = write(tmp_path / "m.safetensors", tiny("sd1")[1])
    assert open_source(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_fp16_is_read_where_both_are_there(checkpoint, tmp_path):
    folder = a_copy(checkpoint, tmp_path / "model")
    both = folder / "unet"
    (both / "diffusion_pytorch_model.safetensors").rename(both / "diffusion_pytorch_model.fp16.safetensors")
    (both / "diffusion_pytorch_model.safetensors").write_bytes(b"not read")
    ours, theirs = open_source(folder).tensors("unet"), Checkpoint.open(checkpoint).tensors("unet")
    assert all(np.array_equal(ours.array(name), theirs.array(name)) for name in theirs)


def test_shards_that_are_missing_are_named(checkpoint, tmp_path):
    folder = a_copy(checkpoint, tmp_path / "model")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    for listed in (
        {"weight_map": {"a": "x-00001-of-00002.safetensors"}},
        {"weight_map": {"a": "../vae/x.safetensors"}},
    ):
        index.write_text(json.dumps(listed))
        with pytest.raises(CheckpointError, match="names files that are missing from its folder"):
            open_source(folder).tensors("unet")


@pytest.mark.parametrize(
    ("config", "special"),
    [
        ({"pad_token": "<|endoftext|>"}, {"pad_token": "!"}),  # Stable Diffusion 2's
        ({"pad_token": "<|endoftext|>"}, {"pad_token": {"content": "!", "lstrip": False}}),
        ({"pad_token": "<|endoftext|>"}, {"bos_token": "<|startoftext|>"}),
        ({"pad_token": "!", "added_tokens_decoder": {"0": {"content": "!"}}}, {"pad_token": "<|endoftext|>"}),
        (None, {"pad_token": "!"}),
    ],
)
def test_a_folder_s_tokenizer_pads_as_transformers_does(config, special, checkpoint, tmp_path):
    folder = a_copy(checkpoint, tmp_path / "model")
    tokenizer = folder / "tokenizer"
    for name, content in tokenizer_files("<|endoftext|>").items():
        (tokenizer / name).write_bytes(content)
    (tokenizer / "tokenizer_config.json").unlink()
    if config is not None:
        (tokenizer / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "CLIPTokenizer"}))
    (tokenizer / "special_tokens_map.json").write_text(json.dumps(special))
    expected = CLIPTokenizer.from_pretrained(tokenizer).pad_token_id
    out = tmp_path / "written"
    out.mkdir()
    for name, content in open_source(folder).tokenizer_files()["tokenizer"].items():
        (out / name).write_bytes(content)
    written = json.loads((out / "tokenizer_config.json").read_text())
    pad = written.get("pad_token", "<|endoftext|>")
    assert json.loads((out / "vocab.json").read_text())[pad["content"] if isinstance(pad, dict) else pad] == expected


def test_files_that_are_not_read_do_not_make_it_another_checkpoint(checkpoint, tmp_path):
    folder = a_copy(checkpoint, tmp_path / "model")
    before = open_source(folder).stamp
    for name in (
        "README.md",
        "tokenizer/chat_template.jinja",
        "unet/diffusion_pytorch_model.bin",
        "safety_checker.txt",
    ):
        (folder / name).write_text("{}")
    assert open_source(folder).stamp == before


@pytest.mark.parametrize("others", [{"steps": 20, "guidance_scale": 3.0}, None])
def test_prompts_for_the_analysis_do_not_make_it_another_checkpoint(others, checkpoint, tmp_path):
    folder = a_copy(checkpoint, tmp_path / "model")
    defaults = folder / "anemone-defaults.json"
    if others is not None:
        defaults.write_text(json.dumps(others) + "\n")
    before = open_source(folder).sha256
    for prompts in (["a cat"], ["a dog", "a house"]):
        defaults.write_text(json.dumps({"prompts": prompts, **(others or {})}, indent=1))
        assert open_source(folder).sha256 == before
        assert open_source(folder).defaults["prompts"] == prompts
    defaults.write_text(json.dumps({"prompts": ["a cat"], "steps": 21}))
    assert open_source(folder).sha256 != before


@pytest.mark.parametrize("prompts", [[], ["a cat", " "], ["a cat"] * 65, "a cat", [1]])
def test_prompts_that_an_analysis_may_not_have_are_refused(prompts, checkpoint, tmp_path):
    folder = a_copy(checkpoint, tmp_path / "model")
    (folder / "anemone-defaults.json").write_text(json.dumps({"prompts": prompts}))
    with pytest.raises(
        CheckpointError, match=r"has prompts = .*; accepted: a list of 1 to 64 texts, none of them blank"
    ):
        _ = open_source(folder).defaults


def test_an_unknown_recommendation_is_refused_by_name(checkpoint, tmp_path):
    folder = a_copy(checkpoint, tmp_path / "model")
    (folder / "anemone-defaults.json").write_text(json.dumps({"steps": 20, "prompt": "a cat"}))
    with pytest.raises(
        CheckpointError, match=r"defaults\.json has 'prompt', which is not known; accepted: steps, .*, prompts"
    ):
        _ = open_source(folder).defaults
