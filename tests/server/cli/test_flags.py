from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from converter.options import DEFAULT_OPTIONS, ConvertOptions
from server.cli.flags import add_options, options_of


def parsed(*words: str, networks_only: bool = False) -> ConvertOptions:
    command = argparse.ArgumentParser()
    add_options(command, networks_only=networks_only)
    return ConvertOptions(**options_of(command.parse_args(words)))


def test_without_flags_a_conversion_is_as_usual() -> None:
    assert parsed() == parsed(networks_only=True) == DEFAULT_OPTIONS


def test_every_option_of_a_conversion_has_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taesd").mkdir()
    monkeypatch.chdir(tmp_path)
    words = (
        "--name m --size 512x512 --size 768x512 --attention original --batch 1 --batch 2 --tokens 77 --tokens 154 "
        "--vae a/vae --preview taesd --safety-checker a/checker --controlnet a/canny --controlnet a/depth --prompt-once "
        "--target macOS15 --functions --prediction-type v_prediction --clip-skip 2 --no-verify "
        "--ip-adapter a/adapter.safetensors --image-encoder a/encoder --tile 128 --bits 8 --quantization linear "
        "--group-size 32 --recipe r.json --activations a.json --chunks 2"
    )
    options = parsed(*words.split())
    assert options == ConvertOptions(
        name="m",
        sizes=((512, 512), (768, 512)),
        attention="original",
        batches=(1, 2),
        tokens=(77, 154),
        vae="a/vae",
        preview=str(tmp_path / "taesd"),
        safety_checker="a/checker",
        controlnets=("a/canny", "a/depth"),
        prompt_once=True,
        target="macOS15",
        functions=True,
        prediction_type="v_prediction",
        clip_skip=2,
        ip_adapters=("a/adapter.safetensors",),
        image_encoder="a/encoder",
        tile=128,
        bits=8,
        quantization="linear",
        group_size=32,
        recipe="r.json",
        activations="a.json",
        chunks=2,
        verify=False,
    )
    assert options.changed().keys() == vars(DEFAULT_OPTIONS).keys()


@pytest.mark.parametrize(
    ("words", "accepted"),
    [
        ("--size 512", "WIDTHxHEIGHT"),
        ("--batch 3", "1, 2"),
        ("--tokens 100", "77, 154, 231"),
        ("--target x", "macOS13"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_accepted(
    words: str, accepted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(*words.split())
    assert accepted in capsys.readouterr().err
