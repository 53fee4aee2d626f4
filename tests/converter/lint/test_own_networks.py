"""Our own packages: split_einsum comes out clean at the sizes people use, original does not."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import AutoencoderTiny, ControlNetModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig

from converter.conversion.convert import convert
from converter.errors import AnemoneError
from converter.lint import ChipError, lint, lint_folder, lint_package, report, worst
from converter.networks.clip import text_encoder
from converter.networks.controlnet import controlnet
from converter.networks.safety_checker import safety_checker
from converter.networks.taesd import taesd_decoder
from converter.networks.unet import unet
from converter.networks.unet_shape import unet_shape
from converter.networks.vae import vae_decoder, vae_encoder
from converter.options import ConvertOptions
from converter.sources.config_tables import CONTROLNET
from tests.support.checkpoints import tiny_text_encoder, tiny_unet, tiny_vae, write_checkpoint, write_xl_checkpoint
from tests.support.mil_packages import package_of

pytestmark = pytest.mark.slow

#: As many levels as Stable Diffusion 1 has, with few channels: shapes of logits are what they are there.
LEVELS = {
    "block_out_channels": (16, 32, 32, 32),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "attention_head_dim": 8,
}
NETWORKS = (
    "text_encoder",
    "unet",
    "controlled unet",
    "controlnet",
    "vae_decoder",
    "vae_encoder",
    "taesd",
    "safety_checker",
)


def package(network, folder, side, attention="split_einsum"):
    latents = {"height": side // 8, "width": side // 8}
    size = {"height": side, "width": side}
    rows = {"batch": 2, "tokens": 77}
    if network == "text_encoder":
        module = tiny_text_encoder(600)
        return package_of(module, folder, lambda layers: text_encoder(layers, module.config.to_dict()), attention)
    if network == "taesd":
        torch.manual_seed(0)
        module = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
        return package_of(module, folder, lambda layers: taesd_decoder(layers, dict(module.config), **size), attention)
    if network == "safety_checker":
        vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        vision |= {"image_size": 32, "patch_size": 8}
        module = StableDiffusionSafetyChecker(CLIPConfig(projection_dim=24, vision_config=vision)).eval()
        config = module.config.to_dict()
        return package_of(module, folder, lambda layers: safety_checker(layers, config, **size), attention)
    if network.startswith("vae"):
        module, write = tiny_vae(), {"vae_decoder": vae_decoder, "vae_encoder": vae_encoder}[network]
        return package_of(module, folder, lambda layers: write(layers, dict(module.config), **size), attention)
    module = tiny_unet(**LEVELS)
    shape = unet_shape(dict(module.config))
    if network == "controlnet":
        module = ControlNetModel.from_unet(module, conditioning_channels=3)
        shape = unet_shape(dict(module.config), table=CONTROLNET)
        return package_of(module, folder, lambda layers: controlnet(layers, shape, **rows, **latents), attention)
    control = network == "controlled unet"
    return package_of(module, folder, lambda layers: unet(layers, shape, **rows, **latents, control=control), attention)


@pytest.mark.parametrize(
    ("network", "side"), [(n, side) for n in NETWORKS for side in (64, 512) if (n, side) != ("text_encoder", 512)]
)
def test_split_einsum_packages_have_nothing_but_notes(tmp_path, network, side):
    path = package(network, tmp_path, side)
    for chip in ("M1", "M5"):
        findings = lint_package(path, chip)
        assert worst(findings) in (None, "note"), report(findings)
        assert "N9" not in {f.rule for f in findings}, report(findings)


def test_a_checkpoint_of_sdxl_has_nothing_but_notes(tmp_path):
    source = write_xl_checkpoint(tmp_path / "source")
    out = tmp_path / "out"
    for attention in ("split_einsum", "split_einsum_v2"):
        options = ConvertOptions(sizes=((1024, 1024), (768, 512)), attention=attention)
        convert(source, out, options)
        by_package = lint_folder(out)
        assert len(by_package) >= 8
        for name, findings in by_package.items():
            assert worst(findings) in (None, "note"), f"{name}\n{report(findings)}"


def test_large_logits_are_noted_and_chunked_ones_are_not(tmp_path):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    split = lint_package(package("unet", tmp_path / "whole", 512))
    cut = lint_package(package("unet", tmp_path / "cut", 512, "split_einsum_v2"))
    (finding,) = (f for f in split if f.rule == "W3")
    assert finding.places[0].detail == "64.0 MB"
    assert finding.places[0].shapes == ((2, 4096, 1, 4096),)
    assert worst(cut) == "note"
    assert "W3" not in {f.rule for f in cut}


@pytest.mark.parametrize("network", ["unet", "vae_decoder"])
def test_original_packages_have_warnings_for_their_softmax(tmp_path, network):
    findings = lint_package(package(network, tmp_path, 512, "original"))
    serious = [f for f in findings if f.level != "note"]
    assert [f.rule for f in serious] == ["W3"]
    place = serious[0].places[0]
    heads, batch = (8, 2) if network == "unet" else (1, 1)
    assert (place.operation, place.shapes) == ("softmax", ((batch, heads, 4096, 4096),))


def test_the_time_embedding_and_the_ids_are_notes(tmp_path):
    for network, kinds in (("unet", {"sin", "cos"}), ("text_encoder", {"gather", "gather_nd"})):
        (tmp_path / network).mkdir()
        findings = [f for f in lint_package(package(network, tmp_path / network, 64)) if f.rule == "E1"]
        assert [f.level for f in findings] == ["note"]
        assert kinds <= {p.operation for p in findings[0].places}


def test_an_image_too_large_for_m1_is_an_error_there(tmp_path):
    path = package("vae_decoder", tmp_path, 1032)  # 129 x 129 positions
    assert "E3" in {f.rule for f in lint_package(path, "M1")}
    assert "E3" not in {f.rule for f in lint_package(path, "M4")}


def test_a_folder_s_packages_are_linted_by_name(tmp_path):
    source = write_checkpoint(tmp_path / "source")
    out = tmp_path / "out"
    convert(source, out, ConvertOptions(sizes=((64, 64), (96, 64))))
    by_manifest = lint_folder(out)
    networks = json.loads((out / "anemone.json").read_text())["networks"]
    assert set(by_manifest) == {p["path"] for packages in networks.values() for p in packages}
    (out / "anemone.json").unlink()
    assert lint_folder(out) == by_manifest
    name = next(iter(by_manifest))
    assert lint_folder(out / name) == {name: by_manifest[name]}
    assert lint_package(out / name) == by_manifest[name]


def test_the_command_s_text_counts_notes_and_prints_them_when_asked(tmp_path):
    path = package("unet", tmp_path, 64)
    text, status = lint(path)
    assert status == 0
    assert text.startswith("network.mlpackage on M1\n")
    assert "note E1" not in text
    assert text.endswith(" notes")
    assert "note E1 (off the engine)" in lint(path, notes=True)[0]


def test_a_broken_package_gives_status_1_and_says_what_to_do(tmp_path):
    path = package("vae_decoder", tmp_path, 512, "original")
    text, status = lint(path, "M2")
    assert status == 1
    assert "warning W3 (slow)" in text
    assert "[1, 1, 4096, 4096]: 32.0 MB" in text
    assert "Convert with split_einsum" in text
    assert text.splitlines()[-1].startswith("1 warning, ")


def test_other_files_and_unknown_chips_are_refused(tmp_path):
    with pytest.raises(ChipError, match="'M9'; accepted: M1, M2, M3, M4, M5"):
        lint_package(tmp_path, "M9")
    with pytest.raises(AnemoneError, match=r"has no packages; accepted: an \.mlpackage or \.mlmodelc, a model folder"):
        lint_folder(tmp_path)
    (tmp_path / "empty.mlpackage").mkdir()
    with pytest.raises(AnemoneError, match="is an empty folder"):
        lint_folder(tmp_path)


def test_a_package_without_its_weights_is_refused(tmp_path):
    path = package("vae_encoder", tmp_path, 64)
    (path / "Data/com.apple.CoreML/weights/weight.bin").unlink()
    with pytest.raises(AnemoneError, match="has lost its weights"):
        lint_package(path)
