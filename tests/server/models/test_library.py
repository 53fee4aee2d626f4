"""Models on disk: which of them serve for a checkpoint, and which are converted again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from converter.options import ConvertOptions
from converter.progress import Progress
from converter.sources.source import open_source
from server.models.library import installed_from


def test_a_model_of_more_sizes_serves_where_its_prediction_type_alone_is_asked_for(
    checkpoint: Path, tmp_path: Path
) -> None:
    source, out, progress = open_source(checkpoint, prediction_type="v_prediction"), tmp_path / "m", list[Progress]()
    more = ConvertOptions(sizes=((64, 64), (96, 64)), prediction_type="v_prediction", verify=False)
    model = installed_from(source, out, more, progress.append)
    assert progress
    progress.clear()
    assert installed_from(source, out, ConvertOptions(prediction_type="v_prediction"), progress.append) == model
    assert not progress
    installed_from(open_source(checkpoint), out, ConvertOptions(verify=False), progress.append)
    assert progress


def cut(weights: Path) -> None:
    os.truncate(weights, 1000)


def flip(weights: Path) -> None:
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)


def lose_the_manifests_end(weights: Path) -> None:
    os.truncate(next(p for p in weights.parents if p.suffix == ".mlpackage").parent / "anemone.json", 1000)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "weight.bin has 1000 bytes; "),
        (flip, "weight.bin has other content than was written"),
        (Path.unlink, "weight.bin is missing"),
        (lose_the_manifests_end, "anemone.json is not JSON"),
    ],
)
def test_a_damaged_model_is_converted_again_with_one_line_in_the_log(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage, words: str
) -> None:
    source, out, progress = open_source(checkpoint), tmp_path / "m", list[Progress]()
    options = ConvertOptions(verify=False)
    model = installed_from(source, out, options, progress.append)
    damage(model.package("unet", 64, 64) / "Data/com.apple.CoreML/weights/weight.bin")
    progress.clear()
    with caplog.at_level("INFO"):
        installed_from(source, out, options, progress.append).compare(again=True)
    assert progress
    (line,) = caplog.messages
    assert words in line
    assert line.endswith("; it is converted again")
