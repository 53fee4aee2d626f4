"""Checkpoints in one file, against diffusers' own converters and the published configurations."""

from __future__ import annotations

import re
import sys
from subprocess import run

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as oracle

from converter.conversion.planning import make_plan
from converter.errors import CheckpointError
from converter.options import ConvertOptions
from converter.sources.single_file import SingleFile
from tests.support.published_configs import CROSS_DOWN, CROSS_UP, DOWN, UP
from tests.support.single_files import OPENCLIP, TINY_UNETS, public, tiny, write, write_headers


def asked_of_diffusers(family, component, state, modules):
    """What diffusers' converters make of the original state."""
    if component == "unet":
        return oracle.convert_ldm_unet_checkpoint(state, modules["unet"].config)
    if component == "vae":
        return oracle.convert_ldm_vae_checkpoint(state, modules["vae"].config)
    if component == "text_encoder" and family != "sd2":
        actual = oracle.convert_ldm_clip_checkpoint(state)
        return {name: t for name, t in actual.items() if "position_ids" not in name}
    prefix = {"sd2": OPENCLIP, "sdxl": "conditioner.embedders.1.model."}.get(family, "conditioner.embedders.0.model.")
    return oracle.convert_open_clip_checkpoint(modules[component], state, prefix)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("family", list(TINY_UNETS))
def test_every_tensor_has_the_name_and_the_values_diffusers_gives_it(family, dtype, tmp_path):
    modules, state = tiny(family)
    source = SingleFile.open(write(tmp_path / "m.safetensors", state, dtype))
    assert source.architecture.family == family
    assert set(source.components) == set(modules)
    halved = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    for component in source.components:
        ours = source.tensors(component)
        theirs = asked_of_diffusers(family, component, halved, modules)
        assert set(ours) == set(theirs)
        for name, tensor in theirs.items():
            assert ours.shape(name) == tuple(tensor.shape) == ours.array(name).shape, name
            np.testing.assert_array_equal(ours.array(name).astype(np.float32), tensor.float().numpy(), err_msg=name)
        assert ours.fp16_bytes(ours) == sum(2 * t.numel() for t in theirs.values())


@pytest.mark.slow
@pytest.mark.parametrize("family", list(TINY_UNETS))
def test_the_configurations_build_the_modules_the_file_was_written_from(family, tmp_path):
    modules, state = tiny(family)
    source = SingleFile.open(write(tmp_path / "m.safetensors", state, torch.float32))
    for component, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        built = kind.from_config(source.config(component))
        assert public(built.config) == public(modules[component].config)
        tensors = source.tensors(component)
        built.load_state_dict({name: torch.from_numpy(tensors.array(name).copy()) for name in tensors}, strict=True)
        for name, tensor in modules[component].state_dict().items():
            assert torch.equal(built.state_dict()[name], tensor), name
    for component in source.architecture.text_encoders:
        config, made = source.config(component.component.name), modules[component.component.name].config
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "max_position_embeddings",
        ):
            assert config[name] == getattr(made, name), name
        assert config["num_hidden_layers"] == (23 if family == "sd2" else made.num_hidden_layers)


def test_nothing_is_copied_but_bfloat16(tmp_path):
    _, state = tiny("sd2")
    source = SingleFile.open(write(tmp_path / "m.safetensors", state, torch.float16))
    for component in source.components:
        tensors = source.tensors(component)
        for name in tensors:
            base = tensors.array(name)
            while not isinstance(base, np.memmap):
                assert base.base is not None, name
                base = base.base


def test_the_older_spelling_without_text_model_is_read(tmp_path):
    _, state = tiny("sd1")
    old = {name.replace("transformer.text_model.", "transformer."): tensor for name, tensor in state.items()}
    actual = SingleFile.open(write(tmp_path / "old.safetensors", old)).tensors("text_encoder")
    new = SingleFile.open(write(tmp_path / "new.safetensors", state)).tensors("text_encoder")
    assert set(actual) == set(new)
    assert all(np.array_equal(actual.array(name), new.array(name)) for name in new)


def test_an_openai_text_encoder_keeps_no_projection(tmp_path):
    _, state = tiny("sd1")
    state["cond_stage_model.transformer.text_projection.weight"] = torch.zeros(64, 64)
    assert "text_projection.weight" not in SingleFile.open(write(tmp_path / "m.safetensors", state)).tensors(
        "text_encoder"
    )


def test_stable_diffusion_2_in_sgm_s_places_is_no_refiner(tmp_path):
    _, state = tiny("sd2")
    turbo = {name.replace(OPENCLIP, "conditioner.embedders.0.model."): tensor for name, tensor in state.items()}
    source = SingleFile.open(write(tmp_path / "m.safetensors", turbo))
    assert source.architecture.family == "sd2"
    assert source.config("text_encoder")["num_hidden_layers"] == 23


@pytest.mark.parametrize("family", list(TINY_UNETS))
def test_nine_channels_are_inpainting(family, tmp_path):
    _, state = tiny(family, in_channels=9)
    source = SingleFile.open(write(tmp_path / "m.safetensors", state))
    assert (source.architecture.family, source.architecture.inpainting) == (family, True)
    assert source.config("unet")["in_channels"] == 9


def test_a_pruned_unet_with_other_depths_up_than_down_and_a_middle_of_one_resnet(tmp_path):
    """SSD-1B's way: fewer transformer blocks here than there, and a middle without any."""
    changes = {
        "block_out_channels": (64, 64),
        "down_block_types": (DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, UP),
        "attention_head_dim": (1, 1),
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, [2, 2]],
        "reverse_transformer_layers_per_block": [[3, 1, 2], 1],
    }
    modules, state = tiny("sdxl", **changes)
    source = SingleFile.open(write(tmp_path / "m.safetensors", state, torch.float32))
    built = UNet2DConditionModel.from_config(source.config("unet"))
    assert {n: t.shape for n, t in built.state_dict().items()} == {
        n: t.shape for n, t in modules["unet"].state_dict().items()
    }
    assert set(source.tensors("unet")) == set(modules["unet"].state_dict())


def test_a_pruned_unet_with_no_middle_and_one_layer_a_level(tmp_path):
    """BK-SDM's and KOALA's way."""
    modules, state = tiny("sd1", layers_per_block=1, mid_block_type=None)
    source = SingleFile.open(write(tmp_path / "m.safetensors", state, torch.float32))
    assert public(UNet2DConditionModel.from_config(source.config("unet")).config) == public(modules["unet"].config)
    assert set(source.tensors("unet")) == set(modules["unet"].state_dict())


def test_reading_needs_no_pytorch(tmp_path):
    path = write(tmp_path / "m.safetensors", tiny("sd1")[1])
    code = (
        "import sys, pathlib; from converter.sources.single_file import SingleFile; "
        "f = SingleFile.open(pathlib.Path(sys.argv[1])); f.tensors('unet').array('conv_in.weight'); "
        "assert 'torch' not in sys.modules"
    )
    run([sys.executable, "-c", code, str(path)], check=True)


@pytest.mark.slow
def test_a_tensor_of_too_few_axes_is_refused_with_a_sentence(tmp_path):
    _, state = tiny("sd1")
    kinds = {re.sub(r"\d+", "0", name): name for name, tensor in state.items() if tensor.ndim > 1}
    for number, name in enumerate(n for n in kinds.values() if "position_ids" not in n and "model_ema" not in n):
        harmed = state[name].reshape(-1) if number % 2 else state[name].reshape(-1)[0]
        file = write_headers(tmp_path / "m.safetensors", state | {name: harmed})
        with pytest.raises(CheckpointError, match=r" is (\[|\d|one number)| has \w+ = "):
            make_plan(SingleFile.open(file), ConvertOptions()).left_out()
