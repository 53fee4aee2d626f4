"""Converted networks against diffusers and transformers, on random weights."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from converter.conversion.convert import convert
from converter.options import ConvertOptions
from tests.support.checkpoints import SIDE, TEXT_WIDTH, tiny_text_encoder, tiny_unet, tiny_vae, write_checkpoint
from tests.support.mil_packages import as_written, psnr


def converted(folder, **parts):
    source = write_checkpoint(folder / "source", **parts)
    return source, convert(source, folder / "out", ConvertOptions(verify=False))


def run_unet(source, folder, timestep=981.0):
    reference = UNet2DConditionModel.from_pretrained(source / "unet", dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((2, 4, SIDE // 8, SIDE // 8)).astype(np.float16)
    states = rng.standard_normal((2, 77, TEXT_WIDTH)).astype(np.float16)
    inputs = {
        "sample": sample,
        "timestep": np.full(2, timestep, np.float16),
        "encoder_hidden_states": np.ascontiguousarray(states.transpose(0, 2, 1)[:, :, None]),
    }
    actual = as_written(folder.package("unet", SIDE, SIDE)).predict(inputs)["noise_pred"]
    with torch.no_grad():
        given = torch.from_numpy(sample).float(), timestep, torch.from_numpy(states).float()
        expected = reference(*given).sample.numpy()
    return actual, expected


#: Settings that no tensor's shape tells, each far from its default, so that a network that ignored one would show it.
UNSEEN = [
    {"flip_sin_to_cos": False},
    {"freq_shift": 4},
    {"norm_num_groups": 8},
    {"norm_eps": 0.1},
    {"attention_head_dim": 4},
]
UNSEEN_OF_TEXT = [{"layer_norm_eps": 0.1}, {"hidden_act": "gelu"}, {"num_attention_heads": 4}]


def outputs(module):
    """What a UNet or a text encoder gives on fixed inputs."""
    torch.manual_seed(0)
    with torch.no_grad():
        if isinstance(module, CLIPTextModel):
            return module(torch.randint(0, 500, (1, 77))).last_hidden_state.numpy()
        sample, states = torch.randn(1, 4, 8, 8), torch.randn(1, 77, TEXT_WIDTH)
        return module(sample, 981.0, states).sample.numpy()


@pytest.mark.parametrize("make", [tiny_unet, partial(tiny_text_encoder, 515)], ids=["unet", "text encoder"])
def test_a_network_that_ignored_a_setting_tried_here_would_show_it(make):
    as_shipped = make()
    for changes in UNSEEN if make is tiny_unet else UNSEEN_OF_TEXT:
        changed = make(**changes)
        changed.load_state_dict(as_shipped.state_dict())
        assert psnr(outputs(as_shipped), outputs(changed)) < 60, changes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_linear_projection": True, "attention_head_dim": (2, 4)},
        {"layers_per_block": 2, "transformer_layers_per_block": 2},
        {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        },
        *UNSEEN,
    ],
    ids=["sd1", "sd2", "deeper", "attention below", *(next(iter(changes)) for changes in UNSEEN)],
)
def test_a_unet_predicts_what_diffusers_predicts(tmp_path, changes):
    source, folder = converted(tmp_path, unet=tiny_unet(**changes))
    actual, expected = run_unet(source, folder)
    assert psnr(actual, expected) > 80


@pytest.mark.parametrize("timestep", [0.0, 1.0, 999.0, 500.5])
def test_the_time_embedding_is_exact_at_every_timestep(checkpoint, model_folder, timestep):
    actual, expected = run_unet(checkpoint, model_folder, timestep)
    assert psnr(actual, expected) > 80


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mid_block_add_attention": False},
        {"use_quant_conv": False, "use_post_quant_conv": False},
        {"layers_per_block": 2},
        {"norm_num_groups": 8},
    ],
    ids=["as shipped", "no attention", "no quant convs", "deeper", "other norms"],
)
def test_an_autoencoder_encodes_and_decodes_as_diffusers_does(tmp_path, changes):
    source, folder = converted(tmp_path, vae=tiny_vae(**changes))
    reference = AutoencoderKL.from_pretrained(source / "vae", dtype=torch.float32).eval()
    rng = np.random.default_rng(1)
    z = rng.standard_normal((1, 4, SIDE // 8, SIDE // 8)).astype(np.float16)
    x = rng.uniform(-1, 1, (1, 3, SIDE, SIDE)).astype(np.float16)
    with torch.no_grad():
        image = reference.decode(torch.from_numpy(z).float()).sample.numpy()
        latent = reference.encode(torch.from_numpy(x).float()).latent_dist.parameters.numpy()
    assert psnr(as_written(folder.package("vae_decoder", SIDE, SIDE)).predict({"z": z})["image"], image) > 80
    actual = as_written(folder.package("vae_encoder", SIDE, SIDE)).predict({"x": x})["latent"]
    # diffusers clamps the log variance to [-30, 20] when it builds the distribution; random weights stay inside.
    assert psnr(actual, latent) > 80


@pytest.mark.parametrize("changes", [{}, {"eos_token_id": 2}, *UNSEEN_OF_TEXT])
def test_a_text_encoder_gives_the_states_transformers_gives(tmp_path, changes):
    source, folder = converted(tmp_path, text=changes)
    reference = CLIPTextModel.from_pretrained(source / "text_encoder", dtype=torch.float32).eval()
    vocabulary = reference.config.vocab_size
    ids = np.full((1, 77), vocabulary - 1)
    ids[0, :5] = [vocabulary - 2, 40, 7, 300, 12]
    actual = as_written(folder.package("text_encoder")).predict({"input_ids": ids.astype(np.float32)})
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids))
    assert psnr(actual["last_hidden_state"], expected.last_hidden_state.numpy()) > 75
    assert psnr(actual["pooled_outputs"], expected.pooler_output.numpy()) > 75


def test_the_tiny_text_encoder_depends_on_its_prompt():
    model = tiny_text_encoder(515)
    with torch.no_grad():
        a, b = (model(torch.full((1, 77), i)).last_hidden_state for i in (5, 6))
    assert not torch.allclose(a, b)
