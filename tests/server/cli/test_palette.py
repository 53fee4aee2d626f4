"""``anemone palette``."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from server.cli.main import main


def test_a_file_s_colors_are_printed(tmp_path, capsys):
    pixels = np.zeros((60, 60, 3), np.uint8)
    pixels[:40], pixels[40:] = (250, 220, 60), (60, 150, 70)
    file = tmp_path / "flag.png"
    Image.fromarray(pixels).save(file)
    assert main(["palette", str(file)]) == 0
    assert capsys.readouterr().out == "#fadc3c   66.7 %\n#3c9646   33.3 %\n"
    assert main(["palette", str(file), "--colors", "2", "--json"]) == 0
    assert [color["rgb"] for color in json.loads(capsys.readouterr().out)["colors"]] == [[250, 220, 60], [60, 150, 70]]


def test_what_is_no_image_is_refused(tmp_path, capsys):
    file = tmp_path / "note.txt"
    file.write_text("no image")
    assert main(["palette", str(file)]) == 1
    assert "accepted: " in capsys.readouterr().err


def test_further_frames_are_told_beside_the_colors(tmp_path, capsys):
    file = tmp_path / "moving.gif"
    Image.new("RGB", (8, 8), "red").save(file, save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    assert main(["palette", str(file), "--json"]) == 0
    out, err = capsys.readouterr()
    assert [color["hex"] for color in json.loads(out)["colors"]] == ["#ff0000"]
    assert err == "note: image is animated: its first frame is used\n"
