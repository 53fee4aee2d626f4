"""Configurations of repositories on the hub, as they are published: recognized, or refused by what sets them apart."""

from __future__ import annotations

import pytest

from converter.errors import CheckpointError
from converter.families.registry import ignored_checkpoint_settings, recognize
from tests.support.published_configs import FOLDERS, write_published

FAMILIES = {
    "runwayml/stable-diffusion-v1-5": ("sd1", False, "epsilon"),
    "runwayml/stable-diffusion-inpainting": ("sd1", True, "epsilon"),
    "stabilityai/stable-diffusion-2-1": ("sd2", False, "v_prediction"),
    "stabilityai/stable-diffusion-2-inpainting": ("sd2", True, "epsilon"),
    "stabilityai/stable-diffusion-xl-base-1.0": ("sdxl", False, "epsilon"),
    "stabilityai/stable-diffusion-xl-refiner-1.0": ("sdxl_refiner", False, "epsilon"),
    "diffusers/stable-diffusion-xl-1.0-inpainting-0.1": ("sdxl", True, "epsilon"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_published_folder_is_recognized(name, tmp_path):
    family = recognize(write_published(name, tmp_path))
    assert (family.name, family.inpainting, family.prediction_type) == FAMILIES[name]
    assert family.tokens == 77
    scheduler = FOLDERS[name]["scheduler"]
    stated = {key: getattr(family.schedule, key) for key in ("beta_start", "beta_end", "beta_schedule", "steps_offset")}
    assert stated == {key: scheduler[key] for key in stated}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("playgroundai/playground-v2.5-1024px-aesthetic", "EDMDPMSolverMultistepScheduler"),
        ("stabilityai/stable-diffusion-x4-upscaler", "StableDiffusionUpscalePipeline"),
        ("Kwai-Kolors/Kolors", "ChatGLMModel"),
    ],
)
def test_a_published_folder_of_another_kind_is_refused_by_what_sets_it_apart(name, words, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        recognize(write_published(name, tmp_path))


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_of_a_published_folder_is_passed_over_but_how_its_makers_sample_and_what_nobody_reads(name, tmp_path):
    actual = ignored_checkpoint_settings(write_published(name, tmp_path))
    assert [line for line in actual if not line.endswith("which its library does not read either")] == []
