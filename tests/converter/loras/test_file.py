from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from converter.loras import About, EmbeddingFile, FewStep, LoraError, LoraFile, few_step
from server.pipeline.schedulers import find_scheduler
from tests.support import lora_files
from tests.support.single_files import write_headers

_K = "transformer_blocks_0_attn2_to_k"
_DOWN = "lora_unet_down_blocks_1_attentions_0"
_PLAIN = {
    "lora_unet_conv_in.lora_down.weight": torch.ones(2, 4, 3, 3),
    "lora_unet_conv_in.lora_up.weight": torch.ones(8, 2, 1, 1),
}


def _open(path: Path, tensors: lora_files.Tensors, metadata: dict[str, str] | None = None) -> LoraFile:
    return LoraFile.open(lora_files.write(path, tensors, metadata))


def _refusal(path: Path, tensors: lora_files.Tensors, metadata: dict[str, str] | None = None) -> str:
    lora_files.write(path, tensors, metadata)
    with pytest.raises(LoraError) as refused:
        LoraFile.open(path)
    return str(refused.value)


@pytest.mark.parametrize(
    ("layers", "metadata", "families"),
    [
        ({f"{_DOWN}_{_K}": (640, 768)}, {}, ("sd1",)),
        ({f"{_DOWN}_{_K}": (640, 1024)}, {}, ("sd2",)),
        ({f"{_DOWN}_{_K}": (640, 2048)}, {}, ("sdxl",)),
        ({"lora_te_text_model_encoder_layers_0_mlp_fc1": (3072, 768)}, {}, ("sd1", "sdxl")),
        ({"lora_te_text_model_encoder_layers_0_mlp_fc1": (4096, 1024)}, {}, ("sd2",)),
        (
            {
                "lora_te1_text_model_encoder_layers_0_mlp_fc1": (3072, 768),
                "lora_te2_text_model_encoder_layers_0_mlp_fc1": (5120, 1280),
            },
            {},
            ("sdxl",),
        ),
        # B-LoRA's single block and others without cross attention
        (
            {"lora_unet_mid_block_attentions_0_transformer_blocks_9_attn1_to_q": (1280, 1280)},
            {},
            ("sdxl", "sdxl_refiner"),
        ),
        ({"lora_unet_down_blocks_0_attentions_0_proj_in": (320, 320)}, {}, ("sd1", "sd2")),
        ({"lora_unet_down_blocks_3_resnets_0_conv1": (1536, 1536)}, {}, ("sd1", "sd2", "sdxl_refiner")),
        ({f"{_DOWN}_proj_out": (640, 640)}, {"ss_base_model_version": "sdxl_base_v1-0"}, ("sdxl",)),
        ({f"{_DOWN}_proj_out": (640, 640)}, {"ss_base_model_version": "sd_v2_768_v"}, ("sd2",)),
        ({f"{_DOWN}_proj_out": (640, 640)}, {"modelspec.architecture": "stable-diffusion-v1/lora"}, ("sd1",)),
        # metadata are copied from file to file, shapes are not
        ({f"{_DOWN}_{_K}": (640, 768)}, {"ss_base_model_version": "sdxl_base_v1-0"}, ("sd1",)),
        # a width of no published model
        ({f"{_DOWN}_{_K}": (32, 24)}, {}, ("sd1", "sd2", "sdxl", "sdxl_refiner")),
    ],
)
def test_families_are_those_whose_models_have_the_shapes(
    tmp_path: Path, layers: dict[str, tuple[int, int]], metadata: dict[str, str], families: tuple[str, ...]
) -> None:
    tensors: lora_files.Tensors = {}
    for module, (out, into) in layers.items():
        tensors |= {f"{module}.lora_up.weight": torch.zeros(out, 1), f"{module}.lora_down.weight": torch.zeros(1, into)}
    file = LoraFile.open(write_headers(tmp_path / "a.safetensors", tensors, metadata))
    assert file.families == families


def test_a_file_for_two_families_is_refused(tmp_path: Path) -> None:
    tensors = lora_files.low_rank(f"{_DOWN}_{_K}", (640, 768)) | lora_files.low_rank(
        f"lora_unet_up_blocks_1_attentions_0_{_K}", (640, 2048)
    )
    assert "layers of sd1, sdxl; a LoRA of one family is accepted" in _refusal(tmp_path / "a.safetensors", tensors)


def test_what_its_trainer_says_is_told(tmp_path: Path) -> None:
    tags = json.dumps({"10_cat": {"cat": 30, "sitting ": 4}, "5_more": {"cat": 1, "outdoors": 7}, "damaged": 3})
    tensors = _PLAIN | lora_files.low_rank("lora_unet_conv_out", (4, 8), rank=6)
    file = _open(tmp_path / "cat.v2.safetensors", tensors, {"ss_tag_frequency": tags})
    assert file.name == "cat.v2"
    assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    assert file.about == About(("LoCon", "LoRA"), (2, 6), ("cat", "outdoors", "sitting"))
    assert file.few_step is None
    phrase = {"modelspec.trigger_phrase": "sks cat, , blue", "ss_tag_frequency": "not JSON"}
    assert _open(tmp_path / "b.safetensors", tensors, phrase).about.words == ("sks cat", "blue")
    long = {
        "modelspec.trigger_phrase": "a" * 101,
        "ss_tag_frequency": json.dumps({"a": {"b" * 101: 2, **dict.fromkeys("cdefghijklmnop", 1)}}),
    }
    assert _open(tmp_path / "c.safetensors", tensors, long).about.words == tuple("cdefghijkl")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_a_merge_is_the_sum_in_fp32_of_any_stored_type(tmp_path: Path, dtype: torch.dtype) -> None:
    stored = {name: tensor.to(dtype) for name, tensor in lora_files.low_rank("lora_unet_conv_in", (8, 4, 3, 3)).items()}
    up, down = (stored[f"lora_unet_conv_in.lora_{side}.weight"].double() for side in ("up", "down"))
    before = lora_files.random(8, 4, 3, 3).half().float().numpy()
    merged = _open(tmp_path / "a.safetensors", stored).layers["unet"]["conv_in"].merged(before, 0.75)
    # alpha 2 of rank 4
    expected = before + 0.75 * 0.5 * torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down).numpy()
    assert merged.dtype == np.float32
    np.testing.assert_allclose(merged, expected, rtol=0, atol=np.abs(expected).max() * 2**-22)
    # Rounded once to fp16, the result is the exact sum's neighbor at most where fp32 lies on a boundary.
    assert np.mean(merged.astype(np.float16) != expected.astype(np.float16)) < 0.01


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": torch.ones(2, 2)}, "for FLUX"),
        ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(2, 2)}, "for FLUX"),
        ({"lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight": torch.ones(2, 2)}, "Stable Diffusion 3"),
        ({"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(2, 2)}, "for a transformer"),
        ({"lora_unet_blocks_0_self_attn_q.lora_down.weight": torch.ones(2, 2)}, "for Wan"),
        (
            {"lora_controlnet": torch.ones(1), "input_blocks.1.0.up": torch.ones(2, 2)},
            "a ControlLoRA, which makes a Contr",
        ),
        ({"down_blocks.0.motion_modules.0.x.lora_A.weight": torch.ones(2, 2)}, "for AnimateDiff"),
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2, 2)}, "a checkpoint, not a LoRA"),
        (
            {
                name: torch.ones(2, 2)
                for name in ("first_stage_model.a", "model.diffusion_model.input_blocks.0.0.weight")
            },
            "a checkpoint, not a LoRA",
        ),
        ({"conv_in.weight": torch.ones(8, 4, 3, 3)}, "a network's own weights (a checkpoint), not a LoRA"),
        ({"diffusion_model.layers.0.attention.qkv.lora_A.weight": torch.ones(2, 2)}, "for Lumina or Z-Image"),
        ({"diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 2)}, "for a transformer"),
        ({"lora_unet_distilled_guidance_layer_layers_0_in_layer.lora_down.weight": torch.ones(2, 2)}, "for FLUX"),
        ({"lora_unet_down_blocks_0_1_attention_attn_to_k.lora_down.weight": torch.ones(2, 2)}, "for Stable Cascade"),
        ({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, "a textual inversion embedding, not a LoRA"),
        (
            _PLAIN | {"lora_unet_conv_out.oft_blocks": torch.ones(2, 2, 2)},
            "OFT or BOFT (it has lora_unet_conv_out.oft_blo",
        ),
        (_PLAIN | {"lora_unet_conv_out.a1.weight": torch.ones(2, 2)}, "not supported: GLoRA"),
        (_PLAIN | {"lora_unet_conv_out.on_input": torch.ones(1)}, "not supported: IA3"),
        (_PLAIN | {"bundle_emb.cat.string_to_param.*": torch.ones(2, 768)}, "embeddings inside of a LoRA's file"),
        ({"unet:0:up": torch.ones(2, 2), "unet:0:down": torch.ones(2, 2)}, "the format of the first LoRAs"),
        (_PLAIN | {"lora_unet_conv_out.wonder": torch.ones(1)}, "it has lora_unet_conv_out.wonder, which no supported"),
        ({}, "it has no tensors; accepted: LoRA, LoCon"),
        (_PLAIN | {"lora_unet_conv_out.alpha": torch.ones(())}, "it has lora_unet_conv_out.alpha alone"),
        (_PLAIN | {"lora_unet_conv_out.lora_up.weight": torch.ones(4, 2)}, "lora_unet_conv_out.lora_up.weight alone"),
        (
            _PLAIN | {"lora_unet_conv_in.diff": torch.ones(8, 4, 3, 3)},
            "lora_unet_conv_in.diff beside lora_unet_conv_in.lora",
        ),
        (_PLAIN | {"lora_unet_conv_in.hada_t1": torch.ones(2, 2)}, "lora_unet_conv_in.hada_t1 beside"),
        (_PLAIN | {"unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3)}, "are the same part of conv_in"),
        (_PLAIN | {"lora_unet_conv_in.alpha": torch.ones(2)}, "lora_unet_conv_in.alpha is [2]; one number is accepted"),
        (_PLAIN | {"lora_unet_conv_in.lora_up.weight": torch.ones(8, 3, 1, 1)}, "do not fit together"),
        (_PLAIN | {"lora_unet_conv_in.lora_up.weight": torch.ones(8)}, "lora_unet_conv_in.lora_up.weight [8]"),
        ({"lora_unet_conv_in.diff": torch.ones(())}, "lora_unet_conv_in.diff is []; a tensor of one axis or more"),
        (_PLAIN | {"lora_unet_conv_in.lora_down.weight": torch.ones(())}, "lora_unet_conv_in.lora_down.weight is []"),
        (_PLAIN | {"lora_unet_conv_in.dora_scale": torch.ones(0)}, "lora_unet_conv_in.dora_scale is [0]"),
        (
            _PLAIN | {"lora_unet_conv_in.dora_scale": torch.ones(7)},
            "dora_scale has 7 numbers, and the change of conv_in is",
        ),
        (_PLAIN | {"lora_unet_conv_in.dora_scale": torch.ones(1, 5, 1, 1)}, "dora_scale has 5 numbers, and the change"),
        (
            _PLAIN | {"lora_unet_conv_in.alpha": torch.tensor(torch.inf)},
            "has infinite values or NaNs; the file is damaged",
        ),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path: Path, changes: lora_files.Tensors, words: str) -> None:
    message = _refusal(tmp_path / "odd.safetensors", changes)
    assert words in message
    assert message.startswith("odd.safetensors is not usable as a LoRA: ")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("[1]", "its metadata's lora_adapter_metadata is [1]; an object is accepted"),
        ("{", "its metadata's lora_adapter_metadata is no JSON"),
        ('{"unet.lora_alpha": "8"}', "its lora_alpha is '8'; a number up to 1000000 is accepted"),
        ('{"unet.r": 1e999}', "its r is inf; a number up to 1000000 is accepted"),
        ('{"unet.r": 1' + "0" * 400 + "}", "its r is 1000000"),
        ('{"unet.alpha_pattern": {"(a+)+$": 1}}', "an object of modules' names and numbers is accepted"),
    ],
)
def test_hostile_settings_are_refused(tmp_path: Path, metadata: str, words: str) -> None:
    assert words in _refusal(tmp_path / "a.safetensors", _PLAIN, {"lora_adapter_metadata": metadata})


def test_pefts_settings_beside_files_are_those_of_its_own(tmp_path: Path) -> None:
    tensors = {
        "unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3),
        "unet.conv_in.lora_B.weight": torch.ones(8, 2, 1, 1),
    }
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8, "r": 2}')
    zeros = np.zeros((8, 4, 3, 3), np.float32)

    def scale(name: str) -> float:
        merged = LoraFile.open(tmp_path / name).layers["unet"]["conv_in"].merged(zeros, 1)
        return float(merged[0, 0, 0, 0]) / 2

    own, other = (lora_files.write(tmp_path / name, tensors) for name in ("adapter_model.safetensors", "a.safetensors"))
    assert (scale(own.name), scale(other.name)) == (4, 1)
    own.unlink()
    assert scale(other.name) == 4


@pytest.mark.parametrize("content", [b'{"r": 2, "x": "\xff"}', b"\xff\xfe{", b"[", b""])
def test_settings_beside_a_file_that_are_no_json_are_refused(tmp_path: Path, content: bytes) -> None:
    path = lora_files.write(
        tmp_path / "a.safetensors",
        {"unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3), "unet.conv_in.lora_B.weight": torch.ones(8, 2, 1, 1)},
    )
    (tmp_path / "adapter_config.json").write_bytes(content)
    with pytest.raises(LoraError, match=r"adapter_config\.json beside it is no JSON"):
        LoraFile.open(path)


def test_settings_beside_a_file_are_part_of_its_hash(tmp_path: Path) -> None:
    path = lora_files.write(
        tmp_path / "adapter_model.safetensors",
        {"unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3), "unet.conv_in.lora_B.weight": torch.ones(8, 2, 1, 1)},
    )
    hashes = [LoraFile.open(path).sha256]
    assert hashes == [hashlib.sha256(path.read_bytes()).hexdigest()]
    for alpha in (8, 4):
        (tmp_path / "adapter_config.json").write_text(f'{{"lora_alpha": {alpha}, "r": 2}}')
        hashes.append(LoraFile.open(path).sha256)
    assert len(set(hashes)) == 3
    lora_files.write(tmp_path / "b.safetensors", {"unet.conv_in.diff": torch.ones(8, 4, 3, 3)})
    assert (
        LoraFile.open(tmp_path / "b.safetensors").sha256
        == hashlib.sha256((tmp_path / "b.safetensors").read_bytes()).hexdigest()
    )


def test_files_of_other_formats_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    for name, content, words in (
        ("a.pt", b"", "a.pt is not a .safetensors file; other files of LoRAs can hold programs"),
        ("a.safetensors", b"\x08\0\0\0\0\0\0\0[[[[[[[[", "unreadable safetensors header"),
        ("b.safetensors", b"", "b.safetensors is empty; a safetensors file is expected"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LoraError) as refused:
            LoraFile.open(tmp_path / name)
        assert words in str(refused.value)


@pytest.mark.parametrize("kind", [LoraFile, EmbeddingFile])
def test_a_file_that_is_not_there_is_told(tmp_path: Path, kind: type[LoraFile] | type[EmbeddingFile]) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("none.safetensors", "folder.safetensors", "a-name"):
        with pytest.raises(LoraError, match=f"{name} is not a file that exists"):
            kind.open(tmp_path / name)


def test_a_weight_of_another_size_is_refused(tmp_path: Path) -> None:
    layer = _open(tmp_path / "a.safetensors", _PLAIN).layers["unet"]["conv_in"]
    with pytest.raises(LoraError, match="conv_in of the LoRA is 8x36, and of the model 16x36"):
        layer.merged(np.zeros((16, 4, 3, 3), np.float32), 1.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lcm-lora-sdv1-5", FewStep(4, 1.0, "lcm")),
        ("LCM_LoRA_Weights_SD15", FewStep(4, 1.0, "lcm")),
        ("sd_xl_turbo_lora_v1", FewStep(4, 1.0, "euler_a sgm_uniform")),
        ("Hyper-SDXL-8steps-CFG-lora", FewStep(8, 5.0, "tcd")),
        ("Hyper-SD15-1step-lora", FewStep(1, 1.0, "tcd")),
        ("Hyper-SDXL-2steps-lora", FewStep(2, 1.0, "tcd")),
        ("sdxl_lightning_8step_lora", FewStep(8, 1.0, "euler sgm_uniform")),
        ("dmd2_sdxl_4step_lora_fp16", FewStep(4, 1.0, "lcm")),
        ("TCD-SDXL-LoRA", FewStep(4, 1.0, "tcd")),
        ("pcm_sd15_normalcfg_8step_converted", FewStep(8, 5.0, "euler sgm_uniform")),
        ("pcm_sdxl_smallcfg_2step_converted", FewStep(2, 1.0, "euler sgm_uniform")),
        ("pcm_sdxl_lcmlike_lora_converted", FewStep(4, 1.0, "lcm")),
        ("flash_sdxl", FewStep(4, 1.0, "lcm")),
        ("spo_sdxl_10ep_4k-data_lora_webui", None),
        ("turbocharged-cars", None),
        ("thunder and lightning", None),
        ("calcm", None),
        ("add-detail-xl", None),
    ],
)
def test_loras_for_few_steps_are_known_by_their_published_names(
    tmp_path: Path, name: str, expected: FewStep | None
) -> None:
    assert _open(tmp_path / f"{name}.safetensors", _PLAIN).few_step == expected
    assert _open(tmp_path / "renamed.safetensors", _PLAIN, {"modelspec.title": name}).few_step == expected
    if expected is not None:
        scheduler, sigmas = find_scheduler(expected.scheduler)
        assert sigmas.name == ("sgm_uniform" if scheduler.by_sigmas else "automatic")


def test_lcms_loras_are_known_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _open(tmp_path / "pytorch_lora_weights.safetensors", _PLAIN)
    assert file.few_step is None
    monkeypatch.setitem(few_step._LCM, file.path.stat().st_size, file.sha256)
    assert LoraFile.open(file.path).few_step == FewStep(4, 1.0, "lcm")
    other = _open(tmp_path / "other.safetensors", {name: 2 * tensor for name, tensor in _PLAIN.items()})
    assert (other.few_step, other.path.stat().st_size) == (None, file.path.stat().st_size)
