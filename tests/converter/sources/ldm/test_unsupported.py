"""Single files that are not converted, and what they are called when they are refused."""

from __future__ import annotations

import json
import struct

import pytest
import torch

from converter.errors import CheckpointError
from converter.sources.single_file import SingleFile
from tests.support.single_files import tiny, with_zeros, write, write_headers


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("double_blocks.0.img_attn.norm.key_norm.scale", "img_in.weight"), "FLUX"),
        (("model.diffusion_model.double_blocks.0.img_attn.qkv.weight",), "FLUX"),
        (("transformer.single_transformer_blocks.0.attn.to_q.weight",), "FLUX"),
        (("model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias",), "Stable Diffusion 3"),
        (("clip_txt_mapper.weight",), "Stable Cascade"),
        (("down_blocks.1.0.channelwise.0.weight",), "Stable Cascade"),
        (("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",), "LoRA"),
        (("unet.mid_block.attentions.0.proj_in.lora_A.weight",), "LoRA"),
        (("unet.down_blocks.0.processor.to_q_lora.down.weight",), "LoRA"),
        (("lora_unet_down_blocks_1_attentions_0_proj_in.hada_w1_a",), "LoRA"),
        (("first_stage_model.decoder.conv_in.weight",), "a VAE alone"),
        (("decoder.conv_in.weight", "encoder.down.0.block.0.conv1.weight"), "a VAE alone"),
        (("control_model.time_embed.0.weight",), "ControlNet"),
        (("controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"), "ControlNet"),
        (("body.0.block1.weight", "conv_in.weight"), "T2I-Adapter"),
        (("adapter.body.0.resnets.0.block1.weight",), "T2I-Adapter"),
        (("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"), "IP-Adapter"),
        (("emb_params",), "textual inversion"),
        (("clip_l", "clip_g"), "textual inversion"),
        (("down_blocks.0.motion_modules.0.temporal_transformer.norm.bias",), "AnimateDiff"),
        (("down_blocks.0.resnets.0.conv1.weight",), "diffusers' naming"),
        (("text_model.encoder.layers.0.mlp.fc1.weight",), "a text encoder alone"),
        (("model.diffusion_model.input_blocks.0.0.weight",), r"no VAE .* and no text encoder"),
        (("features.0.weight",), "1 tensors of an unknown network"),
        ((), "no tensors"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_name(names, words, tmp_path):
    path = write_headers(tmp_path / "other.safetensors", {name: torch.zeros(4, 4, 1, 1) for name in names})
    with pytest.raises(
        CheckpointError, match=rf"other\.safetensors cannot be converted: it is .*{words}.*SDXL refiner"
    ):
        SingleFile.open(path)


@pytest.mark.parametrize("name", ["edm_mean", "edm_vpred.sigma_max"])
def test_a_model_that_is_sampled_otherwise_is_refused_though_its_networks_are_sdxl_s(name, tmp_path):
    _, state = tiny("sdxl")
    with pytest.raises(CheckpointError, match="sampled as EDM models are"):
        SingleFile.open(write(tmp_path / "m.safetensors", with_zeros(state, name)))


@pytest.mark.parametrize(
    ("dropped", "words"), [("first_stage_model.", "no VAE"), ("cond_stage_model.", "no text encoder")]
)
def test_a_checkpoint_without_one_of_its_networks_is_refused(dropped, words, tmp_path):
    state = {name: tensor for name, tensor in tiny("sd1")[1].items() if not name.startswith(dropped)}
    with pytest.raises(CheckpointError, match=words):
        SingleFile.open(write(tmp_path / "m.safetensors", state))


def test_a_unet_with_further_layers_is_refused_by_their_name(tmp_path):
    _, state = tiny("sd1")
    state["model.diffusion_model.position_net.null_positive_feature"] = torch.zeros(4)
    with pytest.raises(CheckpointError, match=r"position_net\.null_positive_feature"):
        SingleFile.open(write(tmp_path / "m.safetensors", state))


def test_weights_of_a_type_that_is_not_read_are_refused_by_it(tmp_path):
    path = write_headers(tmp_path / "m.safetensors", tiny("sd1")[1])
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    header = json.loads(path.read_bytes()[8 : 8 + length])
    end = 0
    for about in header.values():
        about["dtype"], size = "I8", (about["data_offsets"][1] - about["data_offsets"][0]) // 2
        about["data_offsets"], end = [end, end + size], end + size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    with pytest.raises(CheckpointError, match="I8; accepted: F16"):
        SingleFile.open(path)


@pytest.mark.parametrize(
    ("channels", "words"), [(8, "InstructPix2Pix"), (5, "depth-to-image"), (6, "6 input channels")]
)
def test_other_input_channels_are_refused_by_name(channels, words, tmp_path):
    _, state = tiny("sd1", in_channels=channels)
    with pytest.raises(CheckpointError, match=words):
        SingleFile.open(write(tmp_path / "m.safetensors", state))
