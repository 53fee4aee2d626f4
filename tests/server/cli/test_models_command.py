from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from converter.folder import ModelFolder
from server.cli.main import main


def test_installed_models_are_listed_with_the_room_they_take(
    model_folder: ModelFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    os.symlink(model_folder.path, tmp_path / "models" / "linked")
    assert main(["models", "--data-dir", str(tmp_path)]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith("linked  sd1  64x64, 96x64")
    assert main(["models", "--data-dir", str(tmp_path), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["name"], told["sizes"]) == ("linked", ["64x64", "96x64"])
    assert told["disk_bytes"] > 0
    assert told["memory_bytes"] > 0


def test_that_there_are_none_yet_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--data-dir", str(tmp_path)]) == 0
    assert "no models" in capsys.readouterr().out


def test_a_data_folder_that_does_not_exist_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--data-dir", str(tmp_path / "none")]) == 1
    assert "none does not exist" in capsys.readouterr().err


def test_a_damaged_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models" / "bad").mkdir(parents=True)
    (tmp_path / "models" / "bad" / "anemone.json").write_text("[")
    assert main(["models", "--data-dir", str(tmp_path)]) == 0
    assert "bad is damaged: anemone.json is not JSON" in capsys.readouterr().err
