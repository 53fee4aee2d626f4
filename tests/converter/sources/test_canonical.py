"""The names of tensors as different versions of diffusers and transformers saved them."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from converter.errors import CheckpointError
from converter.networks.registry import kind_of
from converter.sources.canonical import canonical, clip_name
from converter.sources.tensors import Tensors


@pytest.mark.parametrize(
    ("network", "name", "published"),
    [
        ("text_encoder", "embeddings.token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        ("text_encoder_2", "encoder.layers.3.mlp.fc1.bias", "text_model.encoder.layers.3.mlp.fc1.bias"),
        ("text_encoder", "final_layer_norm.weight", "text_model.final_layer_norm.weight"),
        ("text_encoder_2", "text_projection.weight", "text_projection.weight"),
        ("safety_checker", "vision_model.encoder.layers.0.mlp.fc1.weight", None),
        ("safety_checker", "vision_model.pre_layrnorm.bias", None),
        ("safety_checker", "visual_projection.weight", "visual_projection.weight"),
        ("vae_decoder", "decoder.mid_block.attentions.0.query.weight", "decoder.mid_block.attentions.0.to_q.weight"),
        (
            "vae_encoder",
            "encoder.mid_block.attentions.0.proj_attn.bias",
            "encoder.mid_block.attentions.0.to_out.0.bias",
        ),
        ("vae_decoder", "decoder.mid_block.attentions.0.value.weight", "decoder.mid_block.attentions.0.to_v.weight"),
        ("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight", "mid_block.attentions.0."),
        ("controlnet", "controlnet_cond_embedding.conv_in.weight", "controlnet_cond_embedding.conv_in.weight"),
    ],
)
def test_each_spelling_of_a_tensor_has_one_name(network, name, published):
    expected = f"vision_model.{name}" if published is None else name if published.endswith(".") else published
    rename = kind_of(network).component.canonical_name
    assert rename(name) == expected
    assert rename(expected) == expected


def test_tensors_are_found_under_the_one_name_whichever_they_were_saved_under(tmp_path):
    rows = np.arange(6, dtype=np.float16).reshape(2, 3)
    for name in ("embeddings.token_embedding.weight", "text_model.embeddings.token_embedding.weight"):
        save_file({name: rows}, tmp_path / "m.safetensors")
        actual = canonical("text_encoder", Tensors([tmp_path / "m.safetensors"]), clip_name)
        np.testing.assert_array_equal(actual.array("text_model.embeddings.token_embedding.weight"), rows)


def test_a_file_with_both_spellings_of_one_tensor_is_refused(tmp_path):
    rows = np.zeros((2, 3), np.float16)
    save_file({"final_layer_norm.weight": rows, "text_model.final_layer_norm.weight": rows}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"both .*final_layer_norm\.weight.* the same tensor"):
        canonical("text_encoder", Tensors([tmp_path / "m.safetensors"]), clip_name)
