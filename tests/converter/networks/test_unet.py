"""The UNets of every family, in all implementations of attention, against diffusers on random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel

from converter.networks.controlnet import controlnet
from converter.networks.layers import ATTENTIONS
from converter.networks.unet import unet
from converter.networks.unet_shape import unet_shape
from converter.runtime.program import read_program
from converter.sources.config_tables import CONTROLNET
from tests.support.checkpoints import TEXT_WIDTH, tiny_unet
from tests.support.mil_packages import as_written, halved, package_of, psnr
from tests.support.tiny_networks import POOLED, XL

FAMILIES = {
    "sd2": {"use_linear_projection": True, "attention_head_dim": (2, 4), "upcast_attention": True},
    "inpainting": {"in_channels": 9},
    "sdxl": XL,
    "refiner": {
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": 2,
        "attention_head_dim": (2, 4, 4),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 5 * 8 + POOLED,
    },
    "lcm": {"time_cond_proj_dim": 16},
    "bk-sdm small": {"mid_block_type": None},
    "ssd-1b": XL
    | {
        "layers_per_block": 2,
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": (1, (2, 1)),
        "reverse_transformer_layers_per_block": ((1, 2, 1), 1),
    },
}


def inputs_of(shape, batch, height, width, seed=0):
    """A UNet's inputs, random."""
    rng = np.random.default_rng(seed)
    actual = {
        "sample": rng.standard_normal((batch, shape.in_channels, height, width)),
        "timestep": np.full(batch, 801.0),
        "encoder_hidden_states": rng.standard_normal((batch, TEXT_WIDTH, 1, 7)),
    }
    if shape.guidance_width:
        actual["timestep_cond"] = rng.standard_normal((batch, shape.guidance_width))
    if shape.addition:
        actual["time_ids"] = rng.choice([0, 64, 512, 1024], (batch, shape.addition.ids))
        actual["text_embeds"] = rng.standard_normal((batch, POOLED))
    return {name: array.astype(np.float16) for name, array in actual.items()}


def predicted_by(reference, inputs, **more):
    """What diffusers' module makes of them."""
    given = {name: torch.from_numpy(array).float() for name, array in inputs.items()}
    states = given.pop("encoder_hidden_states")[:, :, 0].transpose(1, 2)
    added = {name: given.pop(name) for name in ("time_ids", "text_embeds") if name in given}
    with torch.no_grad():
        return reference(given.pop("sample"), given.pop("timestep"), states, added_cond_kwargs=added, **given, **more)


def converted(module, folder, batch=2, height=8, width=8, attention="split_einsum", control=False):
    shape = unet_shape(dict(module.config), pooled_width=POOLED)

    def write(layers):
        unet(layers, shape, batch=batch, tokens=7, height=height, width=width, control=control)

    return shape, as_written(package_of(module, folder, write, attention))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_unet_of_every_family_predicts_what_diffusers_predicts(tmp_path, family):
    module = halved(tiny_unet(**FAMILIES[family]))
    shape, ours = converted(module, tmp_path)
    inputs = inputs_of(shape, 2, 8, 8)
    assert psnr(ours.predict(inputs)["noise_pred"], predicted_by(module, inputs).sample.numpy()) > 80


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 13)])
def test_every_implementation_of_attention_predicts_the_same_at_any_size(tmp_path, attention, height, width):
    module = halved(tiny_unet(block_out_channels=(16, 32, 32), **blocks(3)))
    shape, ours = converted(module, tmp_path, 1, height, width, attention)
    inputs = inputs_of(shape, 1, height, width)
    assert psnr(ours.predict(inputs)["noise_pred"], predicted_by(module, inputs).sample.numpy()) > 80


def blocks(levels):
    return {
        "down_block_types": ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
    }


@pytest.mark.slow
def test_long_rows_of_queries_are_cut_whatever_their_length(tmp_path):
    """45 x 50 latents are 2250 queries and keys: four pieces of 512 and one of 202 (Apple's form refuses such sizes)."""
    module = halved(tiny_unet())
    shape, ours = converted(module, tmp_path, 2, 45, 50, "split_einsum_v2")
    whole = converted(module, tmp_path / "whole", 2, 45, 50)[1]
    softmaxes = [
        sum(op.kind == "softmax" for op in read_program(path / "network.mlpackage").operations)
        for path in (tmp_path, tmp_path / "whole")
    ]
    # One attention over the latents themselves on the way down and two on the way up, two heads each: 6 by 5 pieces.
    assert softmaxes[0] - softmaxes[1] == 6 * 4
    inputs = inputs_of(shape, 2, 45, 50)
    actual, expected = ours.predict(inputs)["noise_pred"], predicted_by(module, inputs).sample.numpy()
    assert psnr(actual, expected) > 80
    assert psnr(actual, whole.predict(inputs)["noise_pred"]) > 100


@pytest.mark.parametrize("family", [{}, FAMILIES["sd2"], XL], ids=["sd1", "sd2", "sdxl"])
def test_a_controlnet_and_a_unet_that_takes_its_residuals_predict_what_diffusers_predicts(tmp_path, family):
    module = halved(tiny_unet(**family))
    torch.manual_seed(4)
    guide = ControlNetModel.from_unet(
        module, conditioning_embedding_out_channels=(8, 8, 16, 16), load_weights_from_unet=False
    )
    for weight in guide.parameters():
        if not weight.any():  # zero convolutions would hide whatever feeds them
            torch.nn.init.normal_(weight, std=0.1)
    halved(guide)
    shape = unet_shape(dict(guide.config), "controlnet/config.json", pooled_width=POOLED, table=CONTROLNET)
    ours = as_written(
        package_of(guide, tmp_path / "guide", lambda la: controlnet(la, shape, batch=2, tokens=7, height=8, width=8))
    )
    image = np.random.default_rng(1).uniform(0, 1, (2, 3, 64, 64)).astype(np.float16)
    inputs = inputs_of(shape, 2, 8, 8)
    actual = ours.predict(inputs | {"controlnet_cond": image})
    expected = predicted_by(guide, inputs, controlnet_cond=torch.from_numpy(image).float())
    residuals = [*expected.down_block_res_samples, expected.mid_block_res_sample]
    assert len(actual) == len(residuals)
    for index, residual in enumerate(residuals):
        assert psnr(actual[f"additional_residual_{index}"], residual.numpy()) > 80

    _, guided = converted(module, tmp_path / "unet", control=True)
    halves = {name: array.astype(np.float16) for name, array in actual.items()}
    given = [torch.from_numpy(halves[f"additional_residual_{i}"]).float() for i in range(len(residuals))]
    wanted = predicted_by(
        module, inputs, down_block_additional_residuals=given[:-1], mid_block_additional_residual=given[-1]
    )
    assert psnr(guided.predict(inputs | halves)["noise_pred"], wanted.sample.numpy()) > 80
