"""What a single file's UNet predicts: requested for, said by the file, or guessed."""

from __future__ import annotations

import pytest
import torch

from converter.errors import CheckpointError
from converter.sources.single_file import SingleFile
from tests.support.published_configs import CROSS_DOWN, CROSS_UP, DOWN, UP
from tests.support.single_files import tiny, with_zeros, write


def predicted(path, state, metadata=None, requested=None):
    return SingleFile.open(write(path / "m.safetensors", state, metadata=metadata), requested)


def test_stable_diffusion_2_is_a_guess_where_nothing_says_it(tmp_path):
    actual = predicted(tmp_path, tiny("sd2")[1])
    assert (actual.architecture.prediction.type, actual.architecture.prediction.guessed) == ("epsilon", True)
    assert actual.config("scheduler")["_class_name"] == "PNDMScheduler"
    assert actual.config("unet")["sample_size"] == 64


@pytest.mark.parametrize(
    ("metadata", "kind", "guessed"),
    [
        ({"modelspec.prediction_type": "v"}, "v_prediction", False),
        ({"modelspec.predict_key": "epsilon"}, "epsilon", False),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction", False),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, "epsilon", False),
        ({"ss_v2": "True", "ss_base_model_version": "sd_v2_v"}, "v_prediction", False),
        ({"modelspec.resolution": "768x768"}, "v_prediction", True),
        ({"ss_resolution": "(768, 768)"}, "v_prediction", True),
        ({"modelspec.resolution": "512x512"}, "epsilon", True),
    ],
)
def test_stable_diffusion_2_goes_by_its_metadata(metadata, kind, guessed, tmp_path):
    actual = predicted(tmp_path, tiny("sd2")[1], metadata)
    assert (actual.architecture.prediction.type, actual.architecture.prediction.guessed) == (kind, guessed)
    assert actual.config("scheduler")["prediction_type"] == kind
    assert actual.config("unet")["sample_size"] == (96 if kind == "v_prediction" else 64)
    assert actual.config("vae")["sample_size"] == 4 * actual.config("unet")["sample_size"]


def test_what_was_requested_for_overrules_the_file(tmp_path):
    actual = predicted(tmp_path, tiny("sd2")[1], {"modelspec.prediction_type": "epsilon"}, "v_prediction")
    assert (actual.architecture.prediction.type, actual.architecture.prediction.guessed) == ("v_prediction", False)


def test_a_prediction_type_there_is_not_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="epsilon, v_prediction, sample"):
        predicted(tmp_path, tiny("sd1")[1], requested="flow")


def test_the_spread_of_one_bias_tells_768_v_from_base(tmp_path):
    _, state = tiny("sd2")
    name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    changes = {
        "block_out_channels": (64,) * 4,
        "down_block_types": (CROSS_DOWN,) * 3 + (DOWN,),
        "up_block_types": (UP,) + (CROSS_UP,) * 3,
        "attention_head_dim": (1,) * 4,
    }
    _, state = tiny("sd2", **changes)
    for spread, kind in ((0.02, "epsilon"), (0.2, "v_prediction")):
        state[name] = spread * torch.randn(64)
        assert predicted(tmp_path, state).architecture.prediction.type == kind


@pytest.mark.parametrize(("names", "zero"), [(("v_pred",), False), (("v_pred", "ztsnr"), True)])
def test_sdxl_says_it_with_empty_tensors(names, zero, tmp_path):
    actual = predicted(tmp_path, with_zeros(tiny("sdxl")[1], *names))
    assert actual.architecture.prediction.type == "v_prediction"
    assert actual.architecture.prediction.zero_terminal_snr is zero
    assert actual.config("scheduler").get("rescale_betas_zero_snr", False) is zero


def test_the_size_is_the_one_the_metadata_give(tmp_path):
    actual = predicted(tmp_path, tiny("sd1")[1], {"modelspec.resolution": "640x640"})
    assert actual.config("unet")["sample_size"] == 80
