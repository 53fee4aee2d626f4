from __future__ import annotations

import json
import os
import re
import shutil
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

from converter.devices.trials import Verdict, record
from converter.folder import ModelFolder
from converter.manifest import FILE
from converter.runtime.fast.library import kernel_library
from server.cli.main import main
from server.doctor import machine, visit

_KERNELS = cache(machine.kernel_state)
pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="the double of a Mac is elsewhere")


@pytest.fixture(autouse=True)
def _kernels_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels are tried once for all tests, since PyTorch takes seconds to start."""
    monkeypatch.setattr(visit, "kernel_state", _KERNELS)


@pytest.fixture
def data(model_folder: ModelFolder, tmp_path: Path) -> Path:
    """A data folder with one good model."""
    (tmp_path / "models").mkdir()
    shutil.copytree(model_folder.path, tmp_path / "models" / "good")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    status = main(["doctor", "--json", *arguments])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_each_network_is_loaded_run_and_placed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Two networks are enough to load.
    manifest = json.loads((data / "models" / "good" / FILE).read_text())
    manifest["networks"] = {name: manifest["networks"][name] for name in ("text_encoder", "vae_encoder")}
    (data / "models" / "good" / FILE).write_text(json.dumps(manifest))
    status, report = run(capsys, "--data-dir", str(data), "good", "--chip", "M4")
    assert (status, report["ok"], report["problems"]) == (0, True, [])
    (model,) = report["models"]
    assert (model["family"], model["attention"], model["sizes"]) == ("sd1", "split_einsum", ["64x64", "96x64"])
    assert [one["network"] for one in model["networks"]] == ["text_encoder", "vae_encoder"]
    for one in model["networks"]:
        timing, placed = one["timing"], one["placed"]
        assert min(timing["load"], timing["first"], timing["step"]) > 0
        assert timing["finite"]
        assert timing["memory"] > 10**8  # PyTorch alone is more
        assert (placed["source"], placed["chip"], placed["problem"]) == ("prediction", "M4", None)
        engine, rest = placed["shares"]
        assert (engine["device"], rest["device"]) == ("Neural Engine", "CPU or GPU")
        assert engine["operations"] > rest["operations"] > 0
        assert engine["cost"] + rest["cost"] == pytest.approx(1)


@pytest.mark.slow
def test_versions_and_the_machine_are_told_and_nothing_secret(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANEMONE_API_KEY", "a-key-that-is-long-enough")
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    home = data / "home" / "somebody"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    shutil.move(data / "models", home / "models")
    status = main(["doctor", "--json", "--quick", "--data-dir", str(home)])
    text = capsys.readouterr().out
    report = json.loads(text)
    assert status == 0
    assert set(report) == {
        *("ok", "versions", "machine", "kernels", "storage", "precision", "compute_units", "models", "problems")
    }
    assert report["versions"]["python"].startswith("3.")
    assert {"anemone", "coremltools", "torch", "numpy"} <= set(report["versions"])
    assert report["machine"]["memory"] > report["machine"]["memory_available"] > 0
    assert report["kernels"]["usable"] == (kernel_library() is not None)
    assert report["storage"]["data_dir"] == "~"
    assert report["models"][0]["folder"] == "~/models/good"
    for secret in ("long-enough", "hf_token", "somebody", os.uname().nodename):
        assert secret not in text


def test_quick_loads_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = run(capsys, "--data-dir", str(data), "--quick")
    assert status == 0
    assert {one["unmeasured"] for one in report["models"][0]["networks"]} == {"not requested"}
    assert main(["doctor", "--data-dir", str(data), "--quick"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^anemone [\d.]+ with python 3\.[\d.]+, coremltools 9\.0, torch ", text, re.M)
    assert re.search(r"^model good: sd1; attention split_einsum; 64x64, 96x64; ", text, re.M)
    assert "unet (on a Mac: CPU_AND_NE): not timed: not requested" in text
    assert "prediction for an M1, not measured: Neural Engine" in text
    assert text.endswith("nothing is wrong\n")


def test_trial_verdicts_of_a_program_are_told(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ModelFolder.open(data / "models" / "good")
    package = folder.manifest.networks["vae_decoder"][0]
    killed = Verdict("vae_decoder", package.path, "main", "CPU_AND_NE", False, "killed by SIGKILL", 2.5, None)
    record(folder.path, killed)
    status, report = run(capsys, "--data-dir", str(data), "--quick")
    assert status == 0
    by_name = {one["network"]: one["verdicts"] for one in report["models"][0]["networks"]}
    assert [(v["units"], v["ok"], v["reason"]) for v in by_name["vae_decoder"]] == [
        ("CPU_AND_NE", False, "killed by SIGKILL")
    ]
    assert by_name["unet"] == []
    main(["doctor", "--data-dir", str(data), "--quick"])
    assert "trial: CPU_AND_NE does not run: killed by SIGKILL" in capsys.readouterr().out


def test_that_there_is_no_model_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--data-dir", str(tmp_path / "data")]) == 1
    text = capsys.readouterr().out
    assert "wrong: no model is installed\n  `anemone serve` converts the bundled model" in text
    assert f"data folder: {tmp_path / 'data'}, does not exist yet" in text
    assert not (tmp_path / "data").exists()


def test_a_model_of_the_settings_that_is_nowhere_is_wrong(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = run(capsys, "--data-dir", str(data), "--quick", "--model", str(data / "no.safetensors"))
    assert status == 1
    assert [model["name"] for model in report["models"]] == ["good"]
    assert "no.safetensors" in report["problems"][0]["what"]


def test_a_model_that_is_not_there_is_told(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--data-dir", str(data), "nobody"]) == 1
    assert "there is no model 'nobody'; installed: good" in capsys.readouterr().err


def test_a_disk_without_room_is_wrong(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 10**8))
    status, report = run(capsys, "--data-dir", str(data), "--quick")
    assert status == 1
    assert "0.50 GB are free" in report["problems"][0]["what"]
    assert "--data-dir" in report["problems"][0]["remedy"]


def test_a_model_larger_than_the_budget_is_wrong(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANEMONE_MEMORY_BUDGET_GB", "0.00001")
    status, report = run(capsys, "--data-dir", str(data), "--quick")
    assert status == 1
    assert "takes" in report["problems"][0]["what"]
