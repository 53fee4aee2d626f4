"""``anemone convert`` of an upscaler's file."""

from __future__ import annotations

from PIL import Image

from converter.upscaler_folder import UpscalerFolder
from server.cli.main import main
from tests.support.upscalers import SMALL_COMPACT, network, save


def test_an_upscaler_is_recognized_and_converted(tmp_path, capsys):
    file = save(network(SMALL_COMPACT), tmp_path / "twice.safetensors")
    assert main(["convert", str(file), "-o", str(tmp_path / "out"), "--tile", "64"]) == 0
    assert "twice (upscaler, compact), 2x, tiles of 64x64" in capsys.readouterr().out
    assert UpscalerFolder.open(tmp_path / "out").manifest.source.path_or_id == "twice"


def test_a_pth_is_refused_with_the_way_to_safetensors(tmp_path, capsys):
    (tmp_path / "x4.pth").write_bytes(b"PK")
    assert main(["convert", str(tmp_path / "x4.pth"), "-o", str(tmp_path / "out")]) != 0
    assert "save_file(torch.load(" in capsys.readouterr().err


def test_an_image_is_enlarged_without_a_server(tmp_path, capsys):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "small.png")
    command = ["upscale", str(tmp_path / "small.png"), "-o", str(tmp_path / "large.png"), "--data-dir", str(tmp_path)]
    assert main([*command, "--scale", "3"]) == 0
    assert "large.png (120x90, lanczos)" in capsys.readouterr().out
    with Image.open(tmp_path / "large.png") as image:
        assert image.size == (120, 90)
    assert main([*command, "--upscaler", "x4plus"]) == 1
    assert "upscaler is 'x4plus'; accepted: lanczos, nearest, shapes-2x" in capsys.readouterr().err


def test_the_suffix_says_the_format_and_the_flag_the_quality(tmp_path):
    Image.effect_noise((16, 12), 50).save(tmp_path / "small.png")
    lengths = []
    for quality in ("10", "100"):
        out = tmp_path / f"large{quality}.jpg"
        command = ["upscale", str(tmp_path / "small.png"), "-o", str(out), "--data-dir", str(tmp_path)]
        assert main([*command, "--upscaler", "lanczos", "--quality", quality]) == 0
        with Image.open(out) as image:
            assert (image.format, image.size) == ("JPEG", (32, 24))
        lengths.append(out.stat().st_size)
    assert lengths[0] < lengths[1]


def test_an_unknown_upscaler_of_hires_fix_is_refused_before_the_model_is_loaded(model_folder, tmp_path, capsys):
    words = ["generate", "red", "-o", str(tmp_path / "a.png"), "--hires-scale", "2", "--hires-upscaler", "x9"]
    assert main([*words, "--model", str(model_folder.path), "--data-dir", str(tmp_path)]) != 0
    assert "accepted: latent, lanczos, nearest, shapes-2x" in capsys.readouterr().err
