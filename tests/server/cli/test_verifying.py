from __future__ import annotations

import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from converter.conversion.convert import convert
from converter.options import ConvertOptions
from converter.runtime.mil import MILNetwork
from server.cli import verifying
from server.cli.main import main
from tests.support.checkpoints import tiny_unet, tiny_vae, write_checkpoint, write_xl_checkpoint

pytestmark = pytest.mark.slow

#: What serves packages on this machine.
SERVED = "Core ML" if sys.platform == "darwin" else "fast"


def test_a_model_agrees_with_the_checkpoint_it_was_made_from(checkpoint, model_folder, capsys):
    assert main(["verify", str(model_folder.path), "--against", str(checkpoint), "--steps", "2"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert [line.split()[0] for line in lines] == ["text_encoder", "unet", "vae_decoder", "vae_encoder", "an"]
    for line in lines[:4]:
        decibels = re.fullmatch(rf"\w+ +fp32 +([\d.]+) dB, fp16 +([\d.]+) dB, {SERVED} +([\d.]+) dB", line).groups()
        exact, rounded, served = map(float, decibels)
        assert exact > rounded > 55
        assert served > 45
    decibels = re.fullmatch(rf"an image in 2 steps +fp16 +([\d.]+) dB, {SERVED} +([\d.]+) dB", lines[4]).groups()
    assert min(map(float, decibels)) > 40


def test_a_model_is_compared_by_the_options_it_was_made_with(checkpoint, tmp_path, capsys):
    vae = tiny_vae(scaling_factor=0.5)
    vae.save_pretrained(tmp_path / "vae", safe_serialization=True)
    options = ConvertOptions(vae=str(tmp_path / "vae"), prompt_once=True, verify=False)
    convert(checkpoint, tmp_path / "out", options)
    assert main(["verify", str(tmp_path / "out"), "--against", str(checkpoint), "--steps", "0"]) == 0
    networks = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert networks == ["text_encoder", "unet", "vae_decoder", "vae_encoder", "unet_prompt"]


def test_the_operations_nearest_to_overflow_are_told_for_the_engine(checkpoint, model_folder, capsys):
    arguments = ["verify", str(model_folder.path), "--against", str(checkpoint), "--steps", "0"]
    assert main([*arguments, "--precision", "ane", "--ranges", "2"]) == 0
    first, *tables, last = capsys.readouterr().out.split("\n\n")
    assert all(
        re.search(rf"fp32 +[\d.]+ dB, ane +[\d.]+ dB, {SERVED} +[\d.]+ dB$", line) for line in first.splitlines()
    )
    assert [table.splitlines()[0] for table in tables] == [
        f"{network} in ane" for network in ("text_encoder", "unet", "vae_decoder", "vae_encoder")
    ]
    for table in tables:
        rooms = [float(line.split()[-2]) for line in table.splitlines()[2:]]
        assert len(rooms) == 2
        assert rooms == sorted(rooms)
        assert rooms[0] > 0
        assert {line.split()[-3] for line in table.splitlines()[2:]} <= {"65504", "32752", "4094"}
    assert last.startswith("Others measured the Neural Engine's limits; we confirmed none of them on a Mac.")
    assert "not the engine's rounding error" in last


def test_a_network_that_overflows_in_fp16_fails_and_the_operation_is_named(checkpoint, tmp_path, capsys):
    loud = tmp_path / "loud"
    shutil.copytree(checkpoint, loud)
    weights = loud / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    # The first norm's groups get values of 1000 to both sides of their mean, and it squares them.
    tensors["conv_in.bias"][::2], tensors["conv_in.bias"][1::2] = 1000, -1000
    save_file(tensors, weights)
    model = convert(loud, tmp_path / "model", ConvertOptions())
    assert main(["verify", str(model.path), "--against", str(loud), "--steps", "0", "--ranges", "1"]) == 1
    out = capsys.readouterr().out
    assert re.search(rf"^unet +fp32 +\d+\.\d dB, fp16 +\S+ dB, {SERVED} +\S+ dB  under 35 dB$", out, re.M)
    assert re.search(r"^\w+_square +square +\S+ +65504 +-\d+\.\d dB  [\d.]+% overflow$", out, re.M)


@pytest.mark.parametrize(("gives", "status"), [(0.9, 0), (np.nan, 1)])
def test_what_a_device_answers_is_shown_and_fails_only_where_it_is_not_finite(
    checkpoint, model_folder, monkeypatch, capsys, gives, status
):
    class Device:
        def __init__(self, network):
            self._network = network

        def predict(self, inputs):
            return {name: array * array.dtype.type(gives) for name, array in self._network.predict(inputs).items()}

    monkeypatch.setattr(verifying, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(verifying, "load", lambda file, function: Device(MILNetwork(file, function)))
    arguments = ["verify", str(model_folder.path), "--against", str(checkpoint), "--steps", "0"]
    assert main(arguments) == status
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("unet "))
    served = float(re.search(r"Core ML +(\S+) dB", line).group(1))
    assert served < 35
    assert line.endswith("under 35 dB") == bool(status)


def test_a_model_of_other_weights_fails_by_name(checkpoint, model_folder, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    weights = other / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: array[..., ::-1].copy() for name, array in load_file(weights).items()}, weights)
    assert main(["verify", str(model_folder.path), "--against", str(other), "--steps", "0"]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if "under 35 dB" in line]
    assert [line.split()[0] for line in wrong] == ["unet"]


def test_what_there_is_nothing_to_compare_with_is_told(checkpoint, tmp_path, capsys):
    assert main(["verify", str(tmp_path), "--against", str(checkpoint)]) == 1
    assert "not a converted model" in capsys.readouterr().err


def test_a_model_of_another_family_or_width_is_told_from_the_source(checkpoint, model_folder, tmp_path, capsys):
    other = write_xl_checkpoint(tmp_path / "xl")
    assert main(["verify", str(model_folder.path), "--against", str(other)]) == 1
    assert re.search(
        r"xl is of family sdxl and .* of sd1; give the checkpoint that it was converted from", capsys.readouterr().err
    )
    wider = write_checkpoint(
        tmp_path / "wider", vae=tiny_vae(latent_channels=8), unet=tiny_unet(in_channels=8, out_channels=8)
    )
    assert main(["verify", str(model_folder.path), "--against", str(wider)]) == 1
    assert "the source's unet cannot run on the package's inputs" in capsys.readouterr().err


def test_a_model_with_a_flipped_bit_is_named_before_anything_is_compared(checkpoint, model_folder, tmp_path, capsys):
    folder = shutil.copytree(model_folder.path, tmp_path / "m")
    weights = next(folder.rglob("*unet.mlpackage/Data/com.apple.CoreML/weights/weight.bin"))
    content = bytearray(weights.read_bytes())
    content[-500] ^= 1
    weights.write_bytes(content)
    assert main(["verify", str(folder), "--against", str(checkpoint)]) == 1
    assert "weight.bin has other content than was written; convert tiny again" in capsys.readouterr().err
