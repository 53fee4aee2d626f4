"""What ``anemone generate`` writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from converter.folder import ModelFolder
from demo.pixels import look
from server.cli.main import main
from tests.support.a1111_images import read_parameters
from tests.support.addons import write_lora

pytestmark = pytest.mark.slow


def generated(model_folder: Path, out: Path, *flags: str, prompt: str = "red") -> bytes:
    words = ["generate", prompt, "-o", str(out), "--steps", "1", "--seed", "7", "--precision", "fp32", *flags]
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


def test_loras_are_merged_and_written_as_tags(model: Path, tmp_path: Path) -> None:
    layer = "mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
    write_lora(tmp_path / "data" / "loras" / "film.safetensors", layer, 32, 32, size=10)
    short = generated(model, tmp_path / "a.png", "--lora", "film:0.8", "--lora", "FILM:-1:0.5")
    assert (read_parameters(short) or "").startswith("red <lora:film:0.8> <lora:film:0.5:-1>\n")
    flags = ("--lora", "name=film", "weight=0.8", "--lora", "name=film", "weight=-1", "text_weight=0.5")
    assert generated(model, tmp_path / "b.png", *flags) == short
    assert generated(model, tmp_path / "c.png", "--lora", "film") != short


def test_what_is_wrong_in_a_list_is_named_by_its_flag(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "red", "--lora", "none", "--model", str(model), "--data-dir", str(tmp_path)]
    assert main(words) == 1
    assert "anemone: name of --lora is 'none'; accepted: " in capsys.readouterr().err


def test_a_setting_leaves_the_mark_out(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANEMONE_MARK_IMAGES", "false")
    assert b"digitalsourcetype" not in generated(model, tmp_path / "a.png")


def file_of(folder: Path, name: str, pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(folder / name)
    return str(folder / name)


def pixels_of(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


@pytest.fixture
def photo(tmp_path: Path) -> tuple[str, np.ndarray]:
    """An image file and its pixels."""
    pixels = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    return file_of(tmp_path, "photo.png", pixels), pixels


@pytest.mark.parametrize("flags", [(), ("--only-masked", "--mask-padding", "8"), ("--mask-fill", "fill")])
def test_a_mask_keeps_what_it_leaves_out(
    model: Path, tmp_path: Path, photo: tuple[str, np.ndarray], flags: tuple[str, ...]
) -> None:
    file, pixels = photo
    left = np.zeros((64, 64), np.uint8)
    left[:, :32] = 255
    mask = ("--image", file, "--mask", file_of(tmp_path, "mask.png", left), "--mask-blur", "0", *flags)
    generated(model, tmp_path / "left.png", *mask)
    generated(model, tmp_path / "right.png", *mask, "--invert-mask")
    for name, kept, painted in (("left", np.s_[:, 32:], np.s_[:, :32]), ("right", np.s_[:, :32], np.s_[:, 32:])):
        image = pixels_of(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(image[kept], pixels[kept])
        assert np.abs(image[painted] - pixels[painted]).mean() > 20


def test_an_image_is_extended_beside_its_own_pixels(model: Path, tmp_path: Path, photo: tuple[str, np.ndarray]) -> None:
    file, pixels = photo
    generated(
        model, tmp_path / "a.png", "--image", file, "--extend-left", "16", "--extend-bottom", "8", "--feather", "0"
    )
    image = pixels_of(tmp_path / "a.png")
    assert image.shape == (72, 80, 3)
    np.testing.assert_array_equal(image[:64, 16:], pixels)


def test_a_palettes_colors_come_into_the_image(bundled_folder: ModelFolder, tmp_path: Path) -> None:
    two = np.full((256, 256, 3), (46, 160, 74), np.uint8)
    two[96:160, 96:160] = (250, 214, 50)
    flags = ("--palette-image", file_of(tmp_path, "two.png", two), "--steps", "8", "--precision", "fast")
    generated(bundled_folder.path, tmp_path / "a.png", *flags, prompt="a red circle on a blue background")
    ground, things = look(pixels_of(tmp_path / "a.png").astype(np.uint8))
    assert (ground, [thing.color for thing in things]) == ("green", ["yellow"])


def test_a_second_pass_makes_the_image_larger(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generated(
        model,
        tmp_path / "a.png",
        "--hires-scale",
        "1.5",
        "--hires-steps",
        "1",
        "--guidance-scale",
        "1",
        "--negative-prompt",
        "x",
    )
    assert pixels_of(tmp_path / "a.png").shape == (96, 96, 3)
    assert "note: negative_prompt has no effect" in capsys.readouterr().out


def test_a_control_says_where_things_go(bundled_folder: ModelFolder, tmp_path: Path) -> None:
    white = np.full((256, 256, 3), 255, np.uint8)
    white[32:96, 32:96] = 0
    control = f"image={file_of(tmp_path, 'square.png', white)}"
    flags = ("--control", control, "preprocessor=canny", "--steps", "8", "--precision", "fast")
    generated(bundled_folder.path, tmp_path / "a.png", *flags, prompt="a red square on a white background")
    _, things = look(pixels_of(tmp_path / "a.png").astype(np.uint8))
    assert [(thing.color, thing.place) for thing in things] == [("red", "top left")]
