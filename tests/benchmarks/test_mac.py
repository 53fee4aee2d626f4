"""The parts of the Mac's benchmark, with the double of Core ML, in this process, because only it has the double."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks import mac
from benchmarks.mac import Checks
from converter.devices.comparison import _predict, compare_devices
from converter.devices.timing import _timed
from converter.errors import AnemoneError
from converter.folder import ModelFolder
from converter.manifest import FILE
from tests.support.mac_double.devices import pretend

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checks(tmp_path):
    return Checks(tmp_path / "mac.json")


@pytest.fixture
def model(model_folder, tmp_path):
    """A model of one network, in its own folder."""
    folder = Path(shutil.copytree(model_folder.path, tmp_path / "tiny"))
    manifest = json.loads((folder / FILE).read_text())
    manifest["networks"] = {"text_encoder": manifest["networks"]["text_encoder"]}
    (folder / FILE).write_text(json.dumps(manifest))
    return ModelFolder.open(folder)


def in_here(work, *arguments):
    """Stands in for `in_child`, which raises AnemoneError too."""
    try:
        return work(*arguments)
    except RuntimeError as error:
        raise AnemoneError(str(error)) from error


@pytest.fixture
def double(monkeypatch):
    monkeypatch.setattr(mac, "in_child", in_here)
    monkeypatch.setattr(mac, "timed", lambda *program: in_here(_timed, *program, "fast"))
    monkeypatch.setattr(mac, "compare_devices", partial(compare_devices, run=partial(in_here, _predict)))
    monkeypatch.setattr(mac, "this_machine", lambda: "Apple M2 Pro, macOS 15.1 (24B83)")
    monkeypatch.setattr(mac, "_IDLE_SECONDS", 0)
    return pretend(monkeypatch, noisy=("text_model_encoder_layers_1_mlp_fc1", 0.01))


def test_a_check_that_fails_is_reported_and_stops_nothing(checks, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))

    def refused():
        raise AnemoneError(f"{tmp_path}/model is none")

    assert checks.run("first", refused) is None
    assert checks.run("second", lambda: [][1]) is None
    assert checks.run("third", lambda: {"figure": 1.5, "lost": float("-inf")}) == {"figure": 1.5, "lost": -np.inf}
    first, second, third = json.loads((tmp_path / "mac.json").read_text())["checks"]
    assert first["error"] == "~/model is none"
    assert "IndexError" in second["error"]
    assert (third["error"], third["found"]) == (None, {"figure": 1.5, "lost": None})
    text = mac.markdown(checks)
    assert "| first | 0 s | failed |" in text
    assert "### first failed\n\n```\n~/model is none\n```" in text


def test_every_network_is_measured_on_every_compute_unit(checks, model, double):
    mac.check_networks(checks, model, mac.UNITS)
    assert [(check.name, check.error) for check in checks.done if check.error] == []
    assert len(checks.done) == 3 * 5 + 1
    near = {words[2]: actual["last_hidden_state"] for words, actual in checks.figures("numbers")}
    assert near["CPU_ONLY"]["psnr_db"] > near["CPU_AND_GPU"]["psnr_db"] > near["CPU_AND_NE"]["psnr_db"] + 6
    assert near["CPU_AND_NE"]["drift"] == 0
    ((_, actual),) = checks.figures("blocks")
    assert actual["apart"] == {"CPU_ONLY": None, "CPU_AND_GPU": None, "CPU_AND_NE": "text_model_encoder_layers_1"}
    text = mac.markdown(checks)
    assert text.startswith("# On Apple M2 Pro, macOS 15.1 (24B83)\n")
    assert "| tiny text_encoder CPU_AND_NE | text_model_encoder_layers_1 |" in text
    row = next(line for line in text.splitlines() if line.startswith("| tiny text_encoder CPU_AND_NE | 0."))
    assert "Neural Engine" in row
    assert " dB " in row
    json.loads((checks._out).read_text())


def test_a_compute_unit_that_does_not_load_leaves_the_others(checks, model, double):
    double.refused = ("CPU_AND_NE",)
    mac.check_networks(checks, model, ("CPU_AND_NE", "CPU_ONLY"))
    failed = [check.name.split()[0] for check in checks.done if check.error]
    # Of the double's engine only the plan can be had.
    assert failed == ["first-load", "load", "numbers", "idle"]
    ((_, actual),) = checks.figures("blocks")
    assert set(actual["failed"]) == {"CPU_AND_NE"}
    assert {words[-1] for words, _ in checks.figures("numbers")} == {"CPU_ONLY"}
    assert "| tiny text_encoder CPU_AND_NE | does not run: Error in building plan" in mac.markdown(checks)
    assert "| tiny text_encoder CPU_AND_NE | - | - | - | - | - | - | - | Neural Engine" in mac.markdown(checks)


def test_where_there_is_no_engine_it_is_not_tried():
    assert mac.units_here(("CPU", "GPU")) == ("CPU_ONLY", "CPU_AND_GPU")
    assert mac.units_here(("CPU", "GPU", "Neural Engine")) == ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")
    assert "CPU_AND_NE" in mac.units_here(None)  # Core ML did not list its devices


def test_a_conversion_that_fails_leaves_the_rest(checks, tmp_path, monkeypatch):
    done = []

    def run_or_raise(command, **variables):
        done.append(command[:2])
        if command[1] == "convert":
            raise AnemoneError("converting needs 9 MB")
        return {"status": 0}

    monkeypatch.setattr(mac, "run_or_raise", run_or_raise)
    monkeypatch.setattr(mac, "in_child", lambda work: ("CPU", "GPU"))
    mac.check_all(checks, [], tmp_path, tests=True)
    assert [(check.name, check.error is None) for check in checks.done] == [
        ("devices", True),
        ("convert", False),
        ("open anemone-demo", False),
        ("tests", True),
    ]


def test_whole_images_are_compared_with_fp32_and_with_themselves(checks, tmp_path, monkeypatch):
    colours = iter(range(100, 200, 10))

    def image(folder, units, precision, out):
        Image.new("RGB", (4, 4), (next(colours), 0, 0)).save(out)
        return {"seconds": 1.5, "memory": 2 * 10**9, "status": 0, "printed": ""}

    monkeypatch.setattr(mac, "image", image)
    mac.check_images(checks, tmp_path / "tiny", ("CPU_AND_GPU",), tmp_path)
    assert [check.error for check in checks.done] == [None] * 5
    text = mac.markdown(checks)
    assert "| tiny fp32 | 1.5 s | 2.00 GB | - | - |" in text
    # 110 for 100 is an error of 10 in a third of the values, of a peak of 100; 120 for 110 likewise.
    assert "| tiny CPU_AND_GPU | 1.5 s | 2.00 GB | 24.8 dB | no, 25.6 dB |" in text


@pytest.mark.slow
def test_commands_are_run_and_their_ends_kept():
    actual = mac.run_module(["server", "--version"])
    assert actual["status"] == 0
    assert actual["printed"].startswith("anemone ")
    assert actual["memory"] > 10**7
    with pytest.raises(
        AnemoneError, match=r"^server verify . ended with status 2: anemone verify: one of the arguments "
    ):
        mac.run_or_raise(["server", "verify", "."])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="on a Mac it runs")
def test_off_a_mac_it_is_said_that_it_needs_one():
    ran = subprocess.run([sys.executable, "-m", "benchmarks.mac"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1].startswith("benchmarks.mac needs a Mac")
    assert ran.stdout == ""


def test_a_hosted_mac_installs_measures_and_hands_the_figures_over():
    workflow = yaml.safe_load((ROOT / ".github/workflows/mac.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["runs-on"].startswith("macos-")
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands[:2] == ["make setup", "make bench BENCH=mac"]
    kept = job["steps"][-1]["with"]["path"].split()
    assert {"build/mac.json", "build/mac.md"} <= set(kept)
    dry = ["make", "--dry-run", "bench", "BENCH=mac"]
    # A make that runs these tests tells one that they run, by its environment, to say which folder it is in.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    made = subprocess.run(dry, cwd=ROOT, env=own, capture_output=True, text=True, check=True).stdout
    assert made.splitlines()[-1] == ".venv/bin/python -m benchmarks.mac"
    assert "bench," not in made  # the peers, which need a compiler
