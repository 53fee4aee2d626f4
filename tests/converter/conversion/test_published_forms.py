"""Every family in every form it is published in converts with verification on; what would change the image is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from converter.conversion.convert import convert
from converter.errors import CheckpointError
from converter.options import ConvertOptions
from converter.runtime import load
from tests.support.checkpoints import write_checkpoint, write_xl_checkpoint
from tests.support.single_files import tiny, write

pytestmark = pytest.mark.slow

LEAST_DB = 60
PROJECTION = "conditioner.embedders.1.model.text_projection"
FIRST_UNET_WEIGHT = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"


def converted(source, out, **options):
    """The model of a checkpoint, each of whose networks gives what diffusers' or transformers' gives."""
    least = {}
    options = {"sizes": ((64, 64),)} | options
    made = convert(source, out, ConvertOptions(**options), verified=least.__setitem__)
    assert min(least.values()) > LEAST_DB
    assert least.keys() == made.manifest.networks.keys()
    return made


def change_weights(folder, change, file="diffusion_pytorch_model.safetensors"):
    save_file(change(load_file(folder / file)), folder / file, metadata={"format": "pt"})


def change_config(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sd1(folder):
    return write_checkpoint(folder)


def sd1_as_transformers_5_saves_it(folder):
    source = write_checkpoint(folder)
    change_weights(
        source / "text_encoder",
        lambda w: {n.removeprefix("text_model."): t for n, t in w.items() if "position_ids" not in n},
        "model.safetensors",
    )
    return source


def sd1_saved_before_diffusers_0_15(folder):
    source = write_checkpoint(folder)
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def old(name):
        for new, before in names.items():
            name = name.replace(new, before)
        return name

    change_weights(source / "vae", lambda w: {old(n): t for n, t in w.items()})
    return source


def refiner_in_the_first_encoders_place(folder):
    source = write_xl_checkpoint(folder, refiner=True)
    for part in ("text_encoder", "tokenizer"):
        shutil.move(source / f"{part}_2", source / part)
    return source


def file_of(family, change=lambda state: state, dtype=torch.float16, **changes):
    def make(folder):
        folder.mkdir()
        return write(folder / "m.safetensors", change(tiny(family, **changes)[1]), dtype)

    return make


def scaled_fp8(state):
    """Matrices of the UNet in 8 bits with a factor each, as ComfyUI's files have them."""
    scaled = dict(state)
    for name, tensor in state.items():
        if name.startswith("model.diffusion_model.") and name.endswith(".weight") and tensor.ndim == 2:
            scale = tensor.abs().max() / 448
            scaled[name] = (tensor / scale).to(torch.float8_e4m3fn)
            scaled[f"{name.removesuffix('.weight')}.scale_weight"] = scale.float()
    return scaled | {"model.diffusion_model.scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}


def fp8_file(folder):
    folder.mkdir()
    state = {n: t if t.dtype == torch.float8_e4m3fn else t.contiguous() for n, t in scaled_fp8(tiny("sdxl")[1]).items()}
    save_file(state, folder / "m.safetensors")
    return folder / "m.safetensors"


FORMS = {
    "sd1 folder": (sd1, "sd1"),
    "sd1 folder as transformers 5 saves it": (sd1_as_transformers_5_saves_it, "sd1"),
    "sd1 folder saved before diffusers 0.15": (sd1_saved_before_diffusers_0_15, "sd1"),
    "sdxl folder": (write_xl_checkpoint, "sdxl"),
    "refiner folder": (lambda folder: write_xl_checkpoint(folder, refiner=True), "sdxl_refiner"),
    "refiner folder, its encoder in the first place": (refiner_in_the_first_encoders_place, "sdxl_refiner"),
    "sd1 file": (file_of("sd1"), "sd1"),
    "sd1 inpainting file in fp32": (file_of("sd1", dtype=torch.float32, in_channels=9), "sd1"),
    "sd2 file in bfloat16": (file_of("sd2", dtype=torch.bfloat16), "sd2"),
    "sdxl file": (file_of("sdxl"), "sdxl"),
    "sdxl file in scaled fp8": (fp8_file, "sdxl"),
    "refiner file": (file_of("sdxl_refiner"), "sdxl_refiner"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_published_form_converts_with_verification_on(form, tmp_path):
    make, family = FORMS[form]
    assert converted(make(tmp_path / "source"), tmp_path / "out").manifest.family == family


def without_the_last_layer(state):
    prefix = "conditioner.embedders.0.transformer.text_model."
    return {
        n: t for n, t in state.items() if not n.startswith((f"{prefix}encoder.layers.1.", f"{prefix}final_layer_norm"))
    }


def test_an_sdxl_file_without_the_first_encoders_last_layer_gives_the_states_it_would_have(tmp_path):
    options = ConvertOptions(sizes=((64, 64),), verify=False)
    whole = convert(file_of("sdxl")(tmp_path / "whole"), tmp_path / "a", options)
    cut = converted(file_of("sdxl", without_the_last_layer)(tmp_path / "cut"), tmp_path / "b")
    ids = np.full((1, 77), 49407, np.float32)
    ids[0, :4] = [49406, 320, 2368, 539]
    states = [load(m.package("text_encoder"), precision="fp32").predict({"input_ids": ids}) for m in (whole, cut)]
    np.testing.assert_array_equal(states[0]["hidden_embeds"], states[1]["hidden_embeds"])
    assert list(states[1]) == ["hidden_embeds"]


def test_an_sdxl_file_without_its_projection_is_refused_by_name(tmp_path):
    source = file_of("sdxl", lambda state: {n: t for n, t in state.items() if n != PROJECTION})(tmp_path / "source")
    with pytest.raises(CheckpointError, match=r"no tensor 'conditioner\.embedders\.1\.model\.text_projection'"):
        convert(source, tmp_path / "out", ConvertOptions())


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        (FIRST_UNET_WEIGHT.replace("to_q", "processor.to_q_lora.down"), (4, 16), "a LoRA that is not merged"),
        (FIRST_UNET_WEIGHT.replace("weight", "lora_layer.up.weight"), (16, 4), "a LoRA that is not merged"),
        (
            FIRST_UNET_WEIGHT.replace("attn1.to_q", "attn2.processor.to_k_custom_diffusion"),
            (16, 32),
            "custom diffusion",
        ),
        ("position_net.null_positive_feature", (4,), "GLIGEN"),
        (FIRST_UNET_WEIGHT.replace("attn1.to_q", "fuser.linear"), (16, 16), "GLIGEN"),
        ("encoder_hid_proj.image_projection_layers.0.norm.weight", (4,), "an IP-Adapter"),
        ("down_blocks.0.motion_modules.0.proj_in.weight", (4, 4), "AnimateDiff"),
        ("of_next_year.weight", (4,), "an unknown part"),
    ],
)
def test_a_tensor_that_changes_the_image_is_refused_by_name(name, shape, words, tmp_path):
    source = write_checkpoint(tmp_path / "source")
    change_weights(source / "unet", lambda w: w | {name: torch.zeros(shape).half()})
    with pytest.raises(CheckpointError, match=words) as caught:
        convert(source, tmp_path / "out", ConvertOptions(verify=False))
    assert name in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_changes_no_image_is_left_out_and_listed(tmp_path):
    source = write_checkpoint(tmp_path / "source")
    more = {"logit_scale": torch.zeros(()), "text_model.encoder.layers.2.mlp.fc1.bias": torch.zeros(4)}
    change_weights(source / "text_encoder", lambda w: w | more, "model.safetensors")
    change_config(source / "scheduler/scheduler_config.json", use_karras_sigmas=True)
    change_config(source / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    made = convert(source, tmp_path / "out", ConvertOptions(verify=False))
    assert made.manifest.left_out == (
        "scheduler/scheduler_config.json has use_karras_sigmas = True: each request chooses how to sample",
        "text_encoder: logit_scale (of CLIP's other half, which reads images)",
        "text_encoder: text_model.embeddings.position_ids (the numbers of the positions, which are always the same)",
        "text_encoder: text_model.encoder.layers.2.mlp.fc1.bias (of layers behind the last one used)",
        "safety_checker (StableDiffusionSafetyChecker) is not converted with the checkpoint",
    )


def test_further_tensors_of_a_single_file_are_listed_or_refused(tmp_path):
    made = convert(file_of("sd1")(tmp_path / "source"), tmp_path / "out", ConvertOptions(verify=False))
    assert set(made.manifest.left_out) == {
        "the file has model_ema.decay, model_ema.diffusion_modelinput_blocks00weight (of the training)",
        "the file has betas (the noise schedule's numbers, which are computed anew)",
        "the file has cond_stage_model.transformer.text_model.embeddings.position_ids (numbers of positions and masks, "
        "which are always the same)",
        "the file has cond_stage_model.logit_scale (of CLIP's comparison with images)",
    }
    more = {"cond_stage_model.adapter.weight": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"cond_stage_model\.adapter\.weight, which this converter does not know"):
        convert(file_of("sd1", lambda s: s | more)(tmp_path / "b"), tmp_path / "c", ConvertOptions())


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_not_finite_are_refused_before_anything_is_written(part, tmp_path):
    source = write_checkpoint(tmp_path / "source")
    file = "model.safetensors" if part == "text_encoder" else "diffusion_pytorch_model.safetensors"

    def damaged(weights):
        name = sorted(n for n, t in weights.items() if t.ndim > 1 and t.is_floating_point())[-1]
        weights[name].view(-1)[-1] = float("nan")
        return weights

    change_weights(source / part, damaged, file)
    where = re.escape(str(source / part / file))
    with pytest.raises(CheckpointError, match=rf"{where}: \S+ has infinite values or NaNs; the file is damaged"):
        convert(source, tmp_path / "out", ConvertOptions())
    assert not any(path.is_dir() for path in tmp_path.iterdir() if path.name != "source")


def test_a_weight_of_another_shape_than_its_configuration_says_is_refused_by_name(tmp_path):
    source = write_checkpoint(tmp_path / "source")
    change_config(source / "text_encoder/config.json", max_position_embeddings=64)
    with pytest.raises(CheckpointError, match=r"position_embedding\.weight is 77x32.*should be 1x64x32"):
        convert(source, tmp_path / "out", ConvertOptions())


@pytest.mark.parametrize(
    "said",
    [
        {"steps": "abc"},
        {"steps": -1},
        {"steps": 151},
        {"steps": [1]},
        {"guidance_scale": "x"},
        {"guidance_scale": -2},
        {"guidance_scale": 30.5},
        {"scheduler": 5},
        {"prompts": "a cat"},
        {"prompts": []},
        {"prompts": ["a cat", " "]},
        {"prompts": ["a cat", 5]},
    ],
)
def test_wrong_recommendations_are_refused_before_anything_is_written(said, tmp_path):
    source = write_checkpoint(tmp_path / "source")
    (source / "anemone-defaults.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match=rf"anemone-defaults\.json has {next(iter(said))} = .*; accepted"):
        convert(source, tmp_path / "out", ConvertOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(("make", "why"), [(Path.mkdir, "is a folder"), (lambda p: p.symlink_to("gone"), "is missing")])
def test_recommendations_that_cannot_be_read_are_not_passed_over(make, why, tmp_path):
    source = write_checkpoint(tmp_path / "source")
    make(source / "anemone-defaults.json")
    with pytest.raises(CheckpointError, match=rf"anemone-defaults\.json {why}"):
        convert(source, tmp_path / "out", ConvertOptions())
