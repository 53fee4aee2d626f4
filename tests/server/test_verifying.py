from __future__ import annotations

import shutil

from safetensors.numpy import load_file, save_file

from server.cli import main


def test_a_model_agrees_with_the_checkpoint_it_was_made_from(checkpoint, model_folder, capsys):
    assert main(["verify", str(model_folder.path), "--against", str(checkpoint), "--steps", "2"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert [line.split()[0] for line in lines] == ["text_encoder", "unet", "vae_decoder", "vae_encoder", "a"]
    assert all(float(line.removesuffix(" dB").split()[-1]) > 40 for line in lines)


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
