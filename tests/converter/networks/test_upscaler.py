"""Upscaling networks against PyTorch, from files in every published naming."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from converter.conversion.upscaler import write_upscaler
from converter.errors import CheckpointError, DamagedModel, ManifestError
from converter.lint import lint_package
from converter.options import ConvertOptions
from converter.runtime import load
from converter.sources.upscaler import UpscalerFile
from converter.upscaler_folder import UpscalerFolder
from tests.support.mil_packages import psnr
from tests.support.upscalers import SMALL_COMPACT, SMALL_RRDB, network, save

OPTIONS = ConvertOptions(tile=64)


def numbered(name):
    """Return BasicSR's name of a tensor of a 4x network as ESRGAN's training code called it."""
    places = {"conv_first": "0", "conv_body": "1.sub.2", "conv_up1": "3", "conv_up2": "6", "conv_hr": "8"}
    places["conv_last"] = "10"
    layer, _, kind = name.rpartition(".")
    if block := re.fullmatch(r"body\.(\d+)\.rdb(\d)\.conv(\d)", layer):
        return f"model.1.sub.{block[1]}.RDB{block[2]}.conv{block[3]}.0.{kind}"
    return f"model.{places[layer]}.{kind}"


def first_release(name):
    name = re.sub(r"^body\.(\d+)\.rdb(\d)", r"RRDB_trunk.\1.RDB\2", name)
    for ours, theirs in (("conv_body", "trunk_conv"), ("conv_hr", "HRconv"), ("conv_up", "upconv")):
        name = name.replace(ours, theirs)
    return name


def enlarged(folder, pixels):
    return load(folder.package, precision="fp32").predict({"pixels": pixels.numpy().astype(np.float16)})["enlarged"]


def tile(side=64):
    return torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(1)).half().float()


@pytest.mark.parametrize("unshuffle", [1, 2, 4])
@pytest.mark.parametrize("rename", [str, lambda n: f"params_ema.{n}", first_release], ids=["bare", "averaged", "first"])
def test_an_rrdb_network_gives_what_pytorch_gives(tmp_path, unshuffle, rename):
    config = SMALL_RRDB | {"unshuffle": unshuffle, "scale": 4 // unshuffle}
    module = network(config)
    source = UpscalerFile.open(save(module, tmp_path / "net.safetensors", rename))
    assert source.config == config
    agreement = []
    folder = write_upscaler(source, tmp_path / "out", OPTIONS, verified=agreement.append)
    assert (folder.manifest.architecture, folder.manifest.scale, folder.manifest.tile) == ("rrdb", 4 // unshuffle, 64)
    assert agreement[0] > 50
    pixels = tile()
    with torch.no_grad():
        expected = module(pixels).numpy()
    assert psnr(enlarged(folder, pixels), expected) > 50


def test_the_numbered_names_of_old_files_are_understood(tmp_path):
    module = network(SMALL_RRDB)
    source = UpscalerFile.open(save(module, tmp_path / "old.safetensors", numbered))
    assert source.config == SMALL_RRDB
    assert set(source.tensors) == set(module.state_dict())


def test_an_old_file_that_doubles_is_understood(tmp_path):
    config = SMALL_RRDB | {"doublings": 1, "scale": 2}
    places = {"model.8.": "model.5.", "model.10.": "model.7."}
    source = UpscalerFile.open(
        save(
            network(config),
            tmp_path / "old.safetensors",
            lambda n: re.sub(r"^model\.(8|10)\.", lambda m: places[m[0]], numbered(n)),
        )
    )
    assert source.config == config


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_a_compact_network_gives_what_pytorch_gives(tmp_path, scale):
    module = network(SMALL_COMPACT | {"scale": scale})
    source = UpscalerFile.open(save(module, tmp_path / "net.safetensors", lambda n: f"params.{n}"))
    assert source.config == SMALL_COMPACT | {"scale": scale}
    folder = write_upscaler(source, tmp_path / "out", OPTIONS)
    pixels = tile()
    with torch.no_grad():
        expected = module(pixels).numpy()
    assert psnr(enlarged(folder, pixels), expected) > 50


def test_the_reference_is_the_published_formula():
    """Compute a dense block and the compact network's sum by hand, so that package and reference cannot err alike."""
    module, x = network(SMALL_RRDB), tile(8)
    block, h = module.body[0].rdb1, torch.rand((1, 8, 8, 8))
    seen = h
    for conv in (block.conv1, block.conv2, block.conv3, block.conv4):
        seen = torch.cat((seen, F.leaky_relu(F.conv2d(seen, conv.weight, conv.bias, padding=1), 0.2)), 1)
    torch.testing.assert_close(block(h), h + 0.2 * F.conv2d(seen, block.conv5.weight, block.conv5.bias, padding=1))
    compact = network(SMALL_COMPACT)
    with torch.no_grad():
        for parameter in compact.body[-1].parameters():
            parameter.zero_()
    torch.testing.assert_close(compact(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize("config", [SMALL_RRDB | {"unshuffle": 2, "scale": 2}, SMALL_COMPACT])
def test_lint_finds_nothing_that_leaves_the_neural_engine(tmp_path, config):
    source = UpscalerFile.open(save(network(config), tmp_path / "net.safetensors"))
    folder = write_upscaler(source, tmp_path / "out", OPTIONS)
    assert {finding.rule for finding in lint_package(folder.package, "M2")} == {"W11"}  # the fp32 output, as everywhere
    assert {finding.level for finding in lint_package(folder.package, "M1")} == {"note"}


def test_a_published_network_has_the_sizes_that_its_shapes_say(tmp_path):
    """Real-ESRGAN x4plus: 23 blocks, 64 channels, 32 more in each step."""
    config = {"architecture": "rrdb", "width": 64, "growth": 32, "blocks": 23, "unshuffle": 1, "doublings": 2}
    with torch.device("meta"):
        from converter.networks.upscaler_modules import upscaler_module

        module = upscaler_module(config)
    assert sum(p.numel() for p in module.parameters()) == 16_697_987  # as the makers' own class has it


def test_other_files_are_no_upscalers(tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4)}, file)
    assert UpscalerFile.open(file) is None


def test_a_network_without_its_last_layer_is_refused(tmp_path):
    file = tmp_path / "cut.safetensors"
    weights = network(SMALL_RRDB).state_dict()
    del weights["conv_last.weight"]
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=r"cut\.safetensors cannot be converted.*conv_last\.weight"):
        write_upscaler(UpscalerFile.open(file), tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


def test_a_layer_of_another_network_is_refused(tmp_path):
    file = tmp_path / "more.safetensors"
    save_file(network(SMALL_RRDB).state_dict() | {"attention.weight": torch.zeros(4)}, file)
    with pytest.raises(CheckpointError, match=r"attention\.weight belongs to no layer"):
        write_upscaler(UpscalerFile.open(file), tmp_path / "out", OPTIONS)


def test_a_compact_network_with_another_activation_is_refused(tmp_path):
    file = tmp_path / "relu.safetensors"
    save_file({n: v for n, v in network(SMALL_COMPACT).state_dict().items() if n != "body.3.weight"}, file)
    with pytest.raises(CheckpointError, match="another activation"):
        UpscalerFile.open(file)


def test_options_of_models_are_refused(tmp_path):
    source = UpscalerFile.open(save(network(SMALL_COMPACT), tmp_path / "net.safetensors"))
    with pytest.raises(CheckpointError, match="sizes is of no use to an upscaler"):
        write_upscaler(source, tmp_path / "out", ConvertOptions(sizes=((64, 64),)))


def test_a_damaged_folder_says_so(tmp_path):
    source = UpscalerFile.open(save(network(SMALL_COMPACT), tmp_path / "net.safetensors"))
    folder = write_upscaler(source, tmp_path / "out", OPTIONS)
    UpscalerFolder.open(folder.path).compare()
    weights = next(folder.package.rglob("weight.bin"))
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DamagedModel, match="convert net again"):
        UpscalerFolder.open(folder.path).compare()
    weights.unlink()
    with pytest.raises(DamagedModel, match="missing"):
        UpscalerFolder.open(folder.path)
    with pytest.raises(ManifestError, match="is not a converted upscaler"):
        UpscalerFolder.open(tmp_path)
