"""The table of configuration keys, held to what diffusers and transformers read."""

from __future__ import annotations

import inspect
from pathlib import Path

import diffusers
import pytest
import transformers

from converter.errors import CheckpointError
from converter.sources.config_tables import (
    CONTROLNET,
    SCHEDULER,
    SCHEDULER_CLASSES,
    TEXT_ENCODER,
    UNET,
    VAE,
    as_markdown,
)
from converter.sources.configs import REQUIRED, ignored_settings, read_config, read_json

LEVELS = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "block_out_channels": [32, 64]}


def parameters(kind):
    return {name: p.default for name, p in inspect.signature(kind.__init__).parameters.items() if name != "self"}


def plain(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        (UNET, diffusers.UNet2DConditionModel),
        (CONTROLNET, diffusers.ControlNetModel),
        (VAE, diffusers.AutoencoderKL),
    ],
    ids=["unet", "controlnet", "vae"],
)
def test_every_key_of_a_network_is_in_the_table_with_its_librarys_default(table, kind):
    theirs = parameters(kind)
    assert set(table) == set(theirs)
    ours = {name: key.default for name, key in table.items() if key.default is not REQUIRED}
    assert {name: plain(value) for name, value in ours.items()} == {name: plain(theirs[name]) for name in ours}


def test_every_key_of_a_text_encoder_is_in_the_table_with_its_librarys_default():
    theirs = transformers.CLIPTextConfig().to_dict()
    assert set(theirs) - {"_name_or_path"} <= set(TEXT_ENCODER)
    read = {name: key for name, key in TEXT_ENCODER.items() if key.treatment == "read"}
    assert {name: key.default for name, key in read.items()} == {name: theirs[name] for name in read}


# diffusers' DPMSolverSDEScheduler needs a package that is not installed, and has no signature without it.
@pytest.mark.parametrize("name", sorted(set(SCHEDULER_CLASSES) - {"DPMSolverSDEScheduler"}))
def test_every_key_of_a_scheduler_is_in_the_table_with_its_classs_default(name):
    theirs = parameters(getattr(diffusers, name))
    assert set(theirs) <= set(SCHEDULER)
    for key, default in theirs.items():
        if SCHEDULER[key].treatment == "read" or key in ("beta_schedule", "prediction_type", "timestep_spacing"):
            assert SCHEDULER_CLASSES[name].get(key, SCHEDULER[key].default) == default, key


def test_a_key_without_a_default_is_asked_for():
    with pytest.raises(CheckpointError, match=r"unet/config\.json lacks block_out_channels; accepted: a list of whole"):
        read_config("unet/config.json", {k: v for k, v in LEVELS.items() if k != "block_out_channels"}, UNET)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("norm_num_groups", None),
        ("norm_num_groups", "32"),
        ("norm_num_groups", True),
        ("norm_num_groups", 0),
        ("norm_eps", float("nan")),
        ("sample_size", [64, 64, 64]),
        ("sample_size", 64.5),
        ("layers_per_block", []),
        ("down_block_types", "DownBlock2D"),
        ("mid_block_scale_factor", True),
        ("conv_in_kernel", [3, 5]),
        ("only_cross_attention", [True, False]),
        ("act_fn", "gelu"),
        ("flip_sin_to_cos", 1),
    ],
)
def test_a_value_that_is_not_accepted_is_named_with_those_that_are(key, value):
    with pytest.raises(CheckpointError, match=rf"unet/config\.json has {key} = .*; accepted: ['\w]"):
        read_config("unet/config.json", LEVELS | {key: value}, UNET)


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("only_cross_attention", [False, False], False),
        ("conv_in_kernel", [3, 3], 3),
        ("act_fn", "swish", "swish"),
        ("sample_size", None, None),
        ("mid_block_scale_factor", 1.0, 1.0),
    ],
)
def test_a_value_that_means_the_same_is_accepted(key, value, read):
    assert read_config("unet/config.json", LEVELS | {key: value}, UNET)[key] == read


def test_what_is_not_followed_is_said():
    given = {"_class_name": "x", "use_karras_sigmas": True, "lower_order_final": True, "of_next_year": 3}
    assert ignored_settings("s.json", given, SCHEDULER) == [
        "s.json has use_karras_sigmas = True: each request chooses how to sample",
        "s.json has of_next_year = 3, which its library does not read either",
    ]


def test_the_docs_have_the_table():
    docs = Path(__file__).parents[3] / "docs" / "configurations.md"
    assert docs.read_text(encoding="utf-8") == as_markdown()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"steps": ' + "9" * 5000 + "}", '{"a": \udcff}', "[1]", ""])
def test_a_file_that_is_no_json_object_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"config\.json (is not JSON|has a list; an object is expected)"):
        read_json(tmp_path / "config.json")


def test_a_folder_in_place_of_a_file_is_told_as_one(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder; a JSON file is expected"):
        read_json(tmp_path)
