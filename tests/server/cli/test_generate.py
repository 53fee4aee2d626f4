"""What ``anemone generate`` writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from server.cli.main import main
from tests.support.a1111_images import read_parameters

pytestmark = pytest.mark.slow


def generated(model_folder: Path, out: Path, *flags: str) -> bytes:
    words = ["generate", "red", "-o", str(out), "--steps", "1", "--seed", "7", "--precision", "fp32", *flags]
    assert main([*words, "--model", str(model_folder), "--data-dir", str(out.parent / "data")]) == 0
    return out.read_bytes()


@pytest.fixture
def model(model_folder) -> Path:
    return model_folder.path


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.WEBP", "WEBP"), ("a", "PNG")])
def test_a_files_suffix_says_its_format(model: Path, tmp_path: Path, name: str, kind: str) -> None:
    data = generated(model, tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert (image.format, image.size) == (kind, (64, 64))
    words = read_parameters(data)
    assert words is not None
    assert words.startswith("red\nSteps: 1, ")
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in data


def test_flags_say_format_and_quality(model: Path, tmp_path: Path) -> None:
    low, high = (generated(model, tmp_path / f"q{q}", "--format", "jpeg", "--quality", q) for q in ("1", "100"))
    with Image.open(tmp_path / "q1") as image:
        assert image.format == "JPEG"
    assert len(low) < len(high)


def test_an_image_of_an_image_says_so(model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "in.png")
    data = generated(model, tmp_path / "out.png", "--image", str(tmp_path / "in.png"), "--strength", "1")
    assert b"digitalsourcetype/compositeWithTrainedAlgorithmicMedia" in data


def test_a_setting_leaves_the_mark_out(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANEMONE_MARK_IMAGES", "false")
    assert b"digitalsourcetype" not in generated(model, tmp_path / "a.png")
