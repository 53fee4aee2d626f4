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
