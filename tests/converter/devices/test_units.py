from __future__ import annotations

from dataclasses import replace

import pytest

from converter.devices.units import preferred_units, unit_order
from converter.networks.registry import KINDS

AUTOENCODERS = {"vae_decoder", "vae_encoder", "preview_decoder"}


@pytest.mark.parametrize("attention", ["original", "unknown"])
def test_attention_that_is_not_split_never_goes_to_the_neural_engine_by_itself(model_folder, attention):
    manifest = replace(model_folder.manifest, attention=attention)
    for network in (*(kind.name for kind in KINDS), "controlnet/canny"):
        assert unit_order(manifest, network, {}) == ("CPU_AND_GPU", "CPU_ONLY")


@pytest.mark.parametrize("attention", ["split_einsum", "split_einsum_v2"])
def test_split_attention_goes_to_the_neural_engine_and_the_autoencoder_to_the_gpu(model_folder, attention):
    manifest = replace(model_folder.manifest, attention=attention)
    for network in (*(kind.name for kind in KINDS), "controlnet/canny"):
        gpu_first = ("CPU_AND_GPU", "CPU_ONLY")
        assert unit_order(manifest, network, {}) == (
            gpu_first if network in AUTOENCODERS else ("CPU_AND_NE", *gpu_first)
        )


def test_what_a_person_says_counts_alone(model_folder):
    settings = {"default": "CPU_ONLY", "controlnet": "ALL", "vae_decoder": "CPU_AND_NE"}
    assert unit_order(model_folder.manifest, "unet", settings) == ("CPU_ONLY",)
    assert preferred_units(model_folder.manifest, "controlnet/canny", settings) == "ALL"
    assert preferred_units(model_folder.manifest, "vae_decoder", settings) == "CPU_AND_NE"
    assert preferred_units(model_folder.manifest, "unet", {"vae_decoder": "CPU_ONLY"}) == "CPU_AND_NE"
