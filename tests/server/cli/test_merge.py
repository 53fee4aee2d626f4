"""``anemone merge``: its words and what it refuses; what it writes is tested in tests/converter/merging."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from converter.folder import ModelFolder
from converter.manifest import Manifest, MergedLora
from server.cli.main import main
from tests.support.lora_files import low_rank, write

QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def style(tmp_path: Path) -> Path:
    return write(tmp_path / "style.safetensors", low_rank(QUERY, (16, 16)))


def test_it_makes_a_model_with_the_loras_in_its_weights(
    model_folder: ModelFolder, style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colon = write(tmp_path / "with:colon.safetensors", {"lora_unet_conv_in.diff": torch.ones(16, 4, 3, 3)})
    out = tmp_path / "out"
    assert main(["merge", str(model_folder.path), "-o", str(out), "--lora", f"{style}:0.5", "--lora", str(colon)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{out}: tiny (sd1), in ")
    merged = Manifest.read(out).merged
    assert merged is not None
    assert [(lora.name, lora.weight) for lora in merged.loras] == [("style", 0.5), ("with:colon", 1)]
    assert isinstance(merged.loras[0], MergedLora)
    assert main(["merge", str(out), "-o", str(tmp_path / "twice"), "--lora", str(style)]) == 1
    assert "is a merged model; take the one that it was made from" in capsys.readouterr().err


def test_what_it_cannot_merge_is_said_in_one_line(
    model_folder: ModelFolder, style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = str(model_folder.path), ["-o", str(tmp_path / "out")]
    for arguments, words in (
        ([base, *out], "nothing to merge is named"),
        ([base, *out, "--lora", str(tmp_path / "none.safetensors")], "none.safetensors"),
        ([str(tmp_path), *out, "--lora", str(style)], "has no anemone.json"),
        ([base, "-o", str(tmp_path), "--lora", str(style)], "exists and is not a converted model"),
    ):
        assert main(["merge", *arguments]) == 1
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    for weight in ("inf", "nan", "much", "", "4.1", "-9"):
        with pytest.raises(SystemExit):
            main(["merge", base, *out, "--lora", f"{style}:{weight}"])
        assert f"is {weight!r}; accepted: FILE:WEIGHT with a number from -4 to 4" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
