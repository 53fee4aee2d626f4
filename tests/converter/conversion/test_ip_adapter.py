"""IP-Adapters: networks of their own, which a conversion verifies against diffusers, and UNet packages that take images."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from converter.conversion.agreement import OptionError
from converter.conversion.convert import convert
from converter.conversion.planning import make_plan
from converter.errors import CheckpointError
from converter.lint import lint_folder, report, worst
from converter.networks.ip_adapter import cross_attention_numbers
from converter.networks.layers import ATTENTIONS
from converter.networks.unet_shape import Level, unet_shape
from converter.options import ConvertOptions
from converter.sources.source import open_source
from tests.support.checkpoints import tiny_unet, write_checkpoint, write_xl_checkpoint
from tests.support.ip_adapters import tiny_image_encoder, write_ip_adapter
from tests.support.mil_packages import as_written

WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def unet_of(source):
    return UNet2DConditionModel.from_pretrained(source / "unet")


@pytest.fixture(scope="module")
def adapter(checkpoint, tmp_path_factory):
    return write_ip_adapter(tmp_path_factory.mktemp("adapter"), unet_of(checkpoint))


def plan(source, *adapters, **options):
    return make_plan(open_source(source), ConvertOptions(ip_adapters=tuple(map(str, adapters)), **options))


def test_cross_attentions_have_the_published_numbers():
    levels = [Level(320, 8, (1, 1), (1, 1, 1)), Level(640, 8, (1, 1), (1, 1, 1)), Level(1280, 8, (1, 1), (1, 1, 1))]
    shape = unet_shape(dict(tiny_unet().config))
    numbers = cross_attention_numbers(replace(shape, levels=(*levels, Level(1280, 8, (0, 0), (0, 0, 0))), middle=1))
    # ip-adapter_sd15.safetensors has to_k_ip of 1, 3, ... 31; 1 is 320 wide, and 31, 1280 wide, is the middle's.
    assert sorted(numbers.values()) == list(range(1, 32, 2))
    assert numbers["down_blocks.0.attentions.0.transformer_blocks.0.attn2"] == 1
    assert numbers["up_blocks.1.attentions.0.transformer_blocks.0.attn2"] == 13
    assert numbers["mid_block.attentions.0.transformer_blocks.0.attn2"] == 31


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_checkpoint, write_xl_checkpoint])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_adapters_and_the_unet_that_takes_their_images_agree_with_diffusers(write, attention, tmp_path):
    source, agreed = write(tmp_path / "source"), {}
    files = [
        write_ip_adapter(tmp_path / "adapters", unet_of(source), name="ip-adapter"),
        write_ip_adapter(tmp_path / "adapters", unet_of(source), plus=True, name="ip-adapter-plus"),
    ]
    options = ConvertOptions(
        name="m", ip_adapters=tuple(map(str, files)), attention=attention, prompt_once=attention == "original"
    )
    made = convert(source, tmp_path / "out", options, verified=agreed.__setitem__)
    networks = ("image_encoder", "ip_adapter/ip-adapter", "ip_adapter/ip-adapter-plus", "unet")
    assert min(agreed[network] for network in networks) > 90
    plain, linear, plus = (made.best("unet", *made.manifest.sizes[0], batch=2, image_tokens=n) for n in (None, 4, 6))
    assert linear.path == "Stable_Diffusion_version_m_unet_image4.mlpackage"
    assert os.path.samefile(made.path / plain.path / WEIGHTS, made.path / plus.path / WEIGHTS)
    brought = as_written(made.path / made.best("ip_adapter/ip-adapter").path).outputs
    taken = as_written(made.path / linear.path).inputs
    assert {name: f.shape[1:] for name, f in brought.items()} == {
        name: f.shape[1:] for name, f in taken.items() if name.startswith("image_")
    }


@pytest.mark.slow
def test_an_image_changes_nothing_if_its_values_are_zero(checkpoint, adapter, tmp_path):
    made = convert(checkpoint, tmp_path / "out", ConvertOptions(ip_adapters=(str(adapter),), verify=False))
    plain, taking = (as_written(made.path / made.best("unet", 64, 64, batch=2, image_tokens=n).path) for n in (None, 4))
    inputs = {name: torch.randn(f.shape).numpy().astype(f.dtype) for name, f in taking.inputs.items()}
    inputs |= {name: 0 * array for name, array in inputs.items() if name.startswith("image_values_")}
    expected = plain.predict({name: inputs[name] for name in plain.inputs})
    assert (taking.predict(inputs)["noise_pred"] == expected["noise_pred"]).all()


@pytest.mark.slow
def test_packages_for_images_have_nothing_but_notes_besides_the_encoder_s_patches(tmp_path):
    levels = {
        "block_out_channels": (16, 32, 32, 32),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "attention_head_dim": 8,
    }
    unet = tiny_unet(**levels)
    source = write_checkpoint(tmp_path / "source", unet=unet)
    files = [str(write_ip_adapter(tmp_path / "a", unet, plus=plus, name=f"plus-{plus}")) for plus in (False, True)]
    convert(source, tmp_path / "out", ConvertOptions(ip_adapters=tuple(files), sizes=((512, 512),), verify=False))
    by_package = lint_folder(tmp_path / "out")
    assert len(by_package) == 9
    encoder = next(name for name in by_package if "image_encoder" in name)
    # Patches of 7 pixels, as ViT-H/14's of 14: a stride that the engine does not take, in one convolution.
    assert {f.rule for f in by_package.pop(encoder) if f.level != "note"} == {"E8"}
    for name, findings in by_package.items():
        assert worst(findings) in (None, "note"), f"{name}\n{report(findings)}"


def test_conversions_without_adapters_keep_their_fingerprints(checkpoint, adapter):
    plain = plan(checkpoint)
    assert plain.options.later() == {}
    assert plan(checkpoint, adapter).fingerprint != plain.fingerprint


def test_an_adapter_for_another_unet_is_refused(checkpoint, tmp_path):
    wide = write_ip_adapter(tmp_path / "wide", tiny_unet(cross_attention_dim=16))
    with pytest.raises(CheckpointError, match="ip-adapter has cross_attention_dim = 16, but the UNet has 32"):
        plan(checkpoint, wide)
    deep = write_ip_adapter(tmp_path / "deep", tiny_unet(layers_per_block=2))
    with pytest.raises(CheckpointError, match="a number of cross attentions = 6, but the UNet has 4"):
        plan(checkpoint, deep)


def test_an_adapter_for_another_image_encoder_is_refused(checkpoint, adapter, tmp_path):
    tiny_image_encoder(projection_dim=16).save_pretrained(tmp_path / "encoder", safe_serialization=True)
    with pytest.raises(CheckpointError, match="an image encoder with projection_dim = 24, and this one has 16"):
        plan(checkpoint, adapter, image_encoder=str(tmp_path / "encoder"))


def test_an_image_encoder_without_adapters_and_two_adapters_of_one_name_are_refused(checkpoint, adapter, tmp_path):
    with pytest.raises(OptionError, match="image_encoder is for IP-Adapters"):
        plan(checkpoint, image_encoder=str(tmp_path))
    with pytest.raises(CheckpointError, match="two IP-Adapters are called ip-adapter"):
        plan(checkpoint, adapter, adapter)


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        ("image_proj.proj.3.weight", "IP-Adapter Full Face"),
        ("image_proj.perceiver_resampler.proj_in.weight", "IP-Adapter FaceID Plus"),
        ("image_proj.proj.0.weight", "IP-Adapter FaceID,"),
        ("unet.conv_in.weight", "not an IP-Adapter; accepted: an IP-Adapter or IP-Adapter Plus"),
    ],
)
def test_other_files_are_refused_by_name(tensor, what, checkpoint, tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({tensor: torch.zeros(4, 4)}, file)
    with pytest.raises(CheckpointError, match=what):
        plan(checkpoint, file)


def test_a_tensor_that_no_adapter_has_is_refused(checkpoint, adapter, tmp_path):
    state = load_file(adapter) | {"ip_adapter.1.to_k_lora.down.weight": torch.zeros(4, 4)}
    save_file(state, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match="to_k_lora"):
        plan(checkpoint, tmp_path / "lora.safetensors", image_encoder=str(adapter.parent / "image_encoder")).left_out()


def test_sources_that_are_no_safetensors_files_are_refused(checkpoint, tmp_path):
    (tmp_path / "ip-adapter.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"is not a \.safetensors file"):
        plan(checkpoint, tmp_path / "ip-adapter.bin")
    with pytest.raises(CheckpointError, match=r"owner/name is not a file; accepted: .* owner/name/file\.safetensors"):
        plan(checkpoint, "owner/name")
