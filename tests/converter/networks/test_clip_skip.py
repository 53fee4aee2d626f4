"""States of text encoders without their last layers, against transformers' hidden states and diffusers' pipelines."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from converter.conversion.convert import convert
from converter.conversion.planning import make_plan
from converter.errors import CheckpointError
from converter.options import ConvertOptions
from converter.runtime import load
from converter.sources.source import open_source
from converter.verification.limits import LEAST_DB
from converter.verification.verify import psnr
from tests.support.checkpoints import write_checkpoint, write_xl_checkpoint, xl_parts

PROMPT = "a red blue"


def ids_of(folder, tokenizer="tokenizer"):
    theirs = CLIPTokenizer.from_pretrained(folder / tokenizer)
    return theirs(PROMPT, padding="max_length", max_length=77, return_tensors="np").input_ids.astype(np.float32)


def encoded(model, network, ids):
    return load(model.package(network)).predict({"input_ids": ids})


def test_states_are_normed_after_the_layers_that_are_left(tmp_path):
    source = write_checkpoint(tmp_path / "source", text={"num_hidden_layers": 4})
    agreed = {}
    made = convert(source, tmp_path / "out", ConvertOptions(clip_skip=4), verified=agreed.__setitem__)
    assert made.manifest.clip_skip == 4
    assert agreed["text_encoder"] >= LEAST_DB
    ids = ids_of(source)
    ours = encoded(made, "text_encoder", ids)
    encoder = CLIPTextModel.from_pretrained(source / "text_encoder", dtype=torch.float32)
    with torch.no_grad():
        hidden = encoder(torch.from_numpy(ids).long(), output_hidden_states=True).hidden_states
        # A1111's and diffusers' way: the final norm after the layer that is now the last.
        theirs = {n: encoder.final_layer_norm(hidden[-n]).numpy() for n in (1, 2, 3, 4)}
    for skip, states in theirs.items():
        name = "last_hidden_state" if skip == 1 else f"last_hidden_state_{skip}"
        assert psnr(ours[name], states) >= LEAST_DB
    assert psnr(ours["last_hidden_state_2"], theirs[3]) < LEAST_DB


@pytest.mark.slow
def test_states_of_xl_are_those_of_diffusers(tmp_path):
    source = write_xl_checkpoint(tmp_path / "source")
    agreed = {}
    made = convert(source, tmp_path / "out", ConvertOptions(clip_skip=2), verified=agreed.__setitem__)
    assert min(agreed["text_encoder"], agreed["text_encoder_2"]) >= LEAST_DB
    pipeline = StableDiffusionXLPipeline(**xl_parts(source), scheduler=None)
    for skip, name in ((1, "hidden_embeds"), (2, "hidden_embeds_2")):
        with torch.no_grad():
            theirs = pipeline.encode_prompt(PROMPT, clip_skip=skip - 1, do_classifier_free_guidance=False)[0].numpy()
        ours = [
            encoded(made, "text_encoder", ids_of(source))[name],
            encoded(made, "text_encoder_2", ids_of(source, "tokenizer_2"))[name],
        ]
        assert psnr(np.concatenate(ours, -1), theirs) >= LEAST_DB


def test_without_the_option_packages_and_fingerprint_are_as_before(tmp_path):
    source = write_checkpoint(tmp_path / "source")
    made = convert(source, tmp_path / "out", ConvertOptions(verify=False))
    assert made.manifest.clip_skip == 1
    assert set(load(made.package("text_encoder")).outputs) == {"last_hidden_state", "pooled_outputs"}
    plans = [make_plan(open_source(source), ConvertOptions(clip_skip=skip)) for skip in (None, 2)]
    assert plans[0].fingerprint == made.manifest.plan != plans[1].fingerprint


def test_a_checkpoint_says_how_many_layers_may_be_skipped_and_an_option_says_otherwise(tmp_path):
    source = write_checkpoint(tmp_path / "source")
    (source / "anemone-defaults.json").write_text(json.dumps({"most_clip_skip": 2}))
    assert make_plan(open_source(source), ConvertOptions()).clip_skip == 2
    assert make_plan(open_source(source), ConvertOptions(clip_skip=1)).clip_skip == 1


@pytest.mark.parametrize("skip", [0, 3, 13])
def test_more_layers_than_there_are_is_refused_by_number(skip, tmp_path):
    source = write_checkpoint(tmp_path / "source")
    with pytest.raises(CheckpointError, match=f"a clip skip of {skip} is not accepted; its text encoder has 1 to 2"):
        make_plan(open_source(source), ConvertOptions(clip_skip=skip))
