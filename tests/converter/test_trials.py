from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import pytest

from converter import trials
from converter.trials import FILE, Verdict, read_verdicts, record, this_machine

DIED = Verdict("unet", "unet.mlpackage", "main", "CPU_AND_NE", False, "it died", 12.5, None)
RUNS = Verdict("unet", "unet.mlpackage", "main", "CPU_AND_GPU", True, None, 2.0, 0.5)


@pytest.fixture
def folder(model_folder, tmp_path):
    shutil.copytree(model_folder.package("unet", 64, 64), tmp_path / "unet.mlpackage")
    return tmp_path


def test_a_machine_names_its_cpu_and_its_system():
    assert os.uname().release in this_machine()


def test_a_folder_without_trials_has_no_verdicts(folder):
    assert read_verdicts(folder) == ()


def test_verdicts_come_back_as_they_were_recorded_and_the_last_counts(folder):
    record(folder, replace(DIED, reason="once"))
    record(folder, RUNS)
    record(folder, DIED)
    assert set(read_verdicts(folder)) == {DIED, RUNS}
    assert [p.name for p in folder.iterdir() if p.name != "unet.mlpackage"] == [FILE]


def test_another_chip_or_os_build_has_verdicts_of_its_own(folder, monkeypatch):
    record(folder, DIED)
    monkeypatch.setattr(trials, "this_machine", lambda: "Apple M2 Pro, macOS 26.1 (25B78)")
    assert read_verdicts(folder) == ()
    record(folder, RUNS)
    monkeypatch.setattr(trials, "this_machine", lambda: "Apple M2 Pro, macOS 26.2 (25C56)")
    assert read_verdicts(folder) == ()
    monkeypatch.undo()
    assert read_verdicts(folder) == (DIED,)


@pytest.mark.parametrize("file", ["weights/weight.bin", "model.mlmodel"])
def test_a_package_that_was_replaced_has_no_verdict(folder, file):
    record(folder, DIED)
    replaced = folder / "unet.mlpackage/Data/com.apple.CoreML" / file
    replaced.write_bytes(replaced.read_bytes() + b"\0")
    assert read_verdicts(folder) == ()


@pytest.mark.parametrize("text", ["", "[]", '{"verdicts": 3}', '{"verdicts": [3, {}]}', '{"verd'])
def test_a_damaged_file_counts_for_nothing_and_is_written_anew(folder, text):
    (folder / FILE).write_text(text)
    assert read_verdicts(folder) == ()
    record(folder, RUNS)
    assert read_verdicts(folder) == (RUNS,)


def test_a_later_versions_fields_are_passed_over(folder):
    record(folder, RUNS)
    written = json.loads((folder / FILE).read_text())
    written["verdicts"][0]["watts"] = 3
    (folder / FILE).write_text(json.dumps(written))
    assert read_verdicts(folder) == (RUNS,)
