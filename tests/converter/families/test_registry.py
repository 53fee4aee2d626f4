"""The registry of families: whose checkpoint one is, what it has, and what its denoiser takes."""

from __future__ import annotations

import json
import shutil

import pytest

from converter.errors import CheckpointError
from converter.families.registry import MODELS, recognize
from converter.sources.source import open_source
from tests.support.checkpoints import TEXT_WIDTH, write_checkpoint, write_xl_checkpoint


def test_stable_diffusion_has_one_text_encoder_and_takes_nothing_beside_the_prompts_states(checkpoint):
    source = open_source(checkpoint)
    family = recognize(source)
    assert family.name == "sd1"
    assert family.networks == ("text_encoder", "unet", "vae_decoder", "vae_encoder")
    assert not family.sizes.penultimate
    conditions = family.conditions(source.index)
    assert (conditions.time_ids, conditions.guidance_width, conditions.zeros_for_no_prompt) == (None, None, False)
    assert conditions.text_width == TEXT_WIDTH


def test_xl_has_two_text_encoders_and_takes_sizes_and_pooled_text(tmp_path):
    source = open_source(write_xl_checkpoint(tmp_path / "source"))
    family = recognize(source)
    assert family.name == "sdxl"
    assert family.networks == ("text_encoder", "text_encoder_2", "unet", "vae_decoder", "vae_encoder")
    assert family.sizes.penultimate
    assert family.sizes.pooled_width > 0
    assert family.conditions(source.index).time_ids == 6
    assert family.conditions({}).zeros_for_no_prompt
    assert not family.conditions({"force_zeros_for_empty_prompt": False}).zeros_for_no_prompt
    assert MODELS[family.name].text_encoders == family.networks[:2]


def test_a_checkpoint_without_a_denoiser_is_refused_by_name(tmp_path):
    source = write_checkpoint(tmp_path / "source")
    shutil.rmtree(source / "unet")
    with pytest.raises(CheckpointError, match=r"source has no denoiser; a folder unet with a config\.json is expected"):
        recognize(open_source(source))


@pytest.mark.parametrize(
    ("pipeline", "known"),
    [
        ("StableDiffusionImg2ImgPipeline", True),
        ("StableDiffusionXLControlNetInpaintPipeline", True),
        ("LatentConsistencyModelPipeline", True),
        ("StableDiffusion3Pipeline", False),
        ("StableDiffusionXLInstructPix2PixPipeline", False),
    ],
)
def test_pipelines_are_known_whose_images_follow_from_the_networks(tmp_path, pipeline, known):
    source = write_checkpoint(tmp_path / "source")
    index = json.loads((source / "model_index.json").read_text())
    (source / "model_index.json").write_text(json.dumps(index | {"_class_name": pipeline}))
    if known:
        assert recognize(open_source(source)).name == "sd1"
    else:
        with pytest.raises(CheckpointError, match=f"'{pipeline}', which is not supported; accepted: "):
            recognize(open_source(source))
