from __future__ import annotations

import pytest

from converter.loras.names import read_name

_ATTENTION = "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
_TEXT = "text_model_encoder_layers_3_self_attn_q_proj"


@pytest.mark.parametrize(
    ("name", "network", "target", "parameter"),
    [
        # kohya's sd-scripts and LyCORIS
        (f"lora_unet_{_ATTENTION}.lora_down.weight", "unet", _ATTENTION, "down"),
        (f"lora_unet_{_ATTENTION}.lora_up.weight", "unet", _ATTENTION, "up"),
        (f"lora_unet_{_ATTENTION}.alpha", "unet", _ATTENTION, "alpha"),
        (f"lora_unet_{_ATTENTION}.dora_scale", "unet", _ATTENTION, "dora_scale"),
        (f"lora_unet_{_ATTENTION}.lokr_w2_a", "unet", _ATTENTION, "lokr_w2_a"),
        (f"lycoris_{_ATTENTION}.hada_w1_b", "unet", _ATTENTION, "hada_w1_b"),
        (f"lora_te_{_TEXT}.lora_down.weight", "text_encoder", _TEXT, "down"),
        (f"lora_te1_{_TEXT}.lora_down.weight", "text_encoder", _TEXT, "down"),
        (f"lora_te2_{_TEXT}.alpha", "text_encoder_2", _TEXT, "alpha"),
        ("lora_te2_text_projection.lora_down.weight", "text_encoder_2", "text_projection", "down"),
        # the original block names of published LoRAs of SDXL
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight", "unet", _ATTENTION, "down"),
        ("lora_unet_output_blocks_0_1_proj_out.alpha", "unet", "up_blocks_0_attentions_0_proj_out", "alpha"),
        ("lora_unet_middle_block_1_norm.w_norm", "unet", "mid_block_attentions_0_norm", "w_norm"),
        ("lora_unet_label_emb_0_2.diff_b", "unet", "add_embedding_linear_2", "diff_b"),
        # diffusers before 0.22, the processors of attention before 0.17, and now
        ("unet.conv_in.lora.down.weight", "unet", "conv_in", "down"),
        (
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight",
            "unet",
            _ATTENTION,
            "down",
        ),
        (
            "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora.up.weight",
            "unet",
            "mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0",
            "up",
        ),
        (
            "text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_linear_layer.up.weight",
            "text_encoder",
            _TEXT,
            "up",
        ),
        (
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight",
            "unet",
            _ATTENTION,
            "down",
        ),
        # ComfyUI
        ("diffusion_model.input_blocks.3.0.op.lora_up.weight", "unet", "down_blocks_0_downsamplers_0_conv", "up"),
        ("diffusion_model.out.2.diff", "unet", "conv_out", "diff"),
        (
            "text_encoders.clip_g.transformer.text_model.encoder.layers.3.self_attn.q_proj.lora_up.weight",
            "text_encoder_2",
            _TEXT,
            "up",
        ),
        # PEFT, with the adapter's name and without, and transformers 5 without text_model
        ("base_model.model.unet.conv_in.lora_B.default.weight", "unet", "conv_in", "up"),
        ("base_model.model.conv_out.lora_magnitude_vector.default.weight", "unet", "conv_out", "magnitude"),
        ("base_model.model.text_model.encoder.layers.3.self_attn.q_proj.lora_A.weight", "text_encoder", _TEXT, "down"),
        ("text_encoder_2.encoder.layers.3.self_attn.q_proj.lora_B.bias", "text_encoder_2", _TEXT, "up_bias"),
    ],
)
def test_published_names_are_read(name: str, network: str, target: str, parameter: str) -> None:
    found = read_name(name)
    assert found is not None
    assert (found.network, found.target, found.parameter) == (network, target, parameter)


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_r.lora_down.weight",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.oft_blocks",
        "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight",
        "lora_te_text_model_encoder_layers_x_mlp_fc1.alpha",
        "unet.conv_in.weight",
        "alpha",
        "",
        f"lora_unet_{_ATTENTION}.lora_magnitude_vector" + ".a" * 200,
    ],
)
def test_other_names_are_not(name: str) -> None:
    assert read_name(name) is None
