from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest

from converter.devices import trials
from converter.devices.attempt import Attempt
from converter.devices.trials import (
    FILE,
    Trials,
    UnitError,
    Verdict,
    noted,
    read_verdicts,
    record,
    settle,
    this_machine,
)
from converter.folder import ModelFolder

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


def test_processes_that_record_at_once_lose_no_verdict(folder):
    program = f"""
import sys
from pathlib import Path
from converter.devices.trials import Verdict, record
for i in range(8):
    record(Path({str(folder)!r}), Verdict("unet", "unet.mlpackage", sys.argv[1] + str(i), "ALL", True, None, 1.0, 1.0))
"""
    both = [subprocess.Popen([sys.executable, "-c", program, name]) for name in "ab"]
    assert [process.wait(60) for process in both] == [0, 0]
    assert {verdict.function for verdict in read_verdicts(folder)} == {f"{name}{i}" for name in "ab" for i in range(8)}


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


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"verdicts": 3}', '{"verdicts": [3, {}]}', '{"verd', "[" * 100_000, '{"verdicts": [[[]]]}', "\ud800"],
)
def test_a_damaged_file_counts_for_nothing_and_is_written_anew(folder, text):
    (folder / FILE).write_text(text, errors="surrogatepass")
    assert read_verdicts(folder) == ()
    record(folder, RUNS)
    assert read_verdicts(folder) == (RUNS,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *product(["machine", "fingerprint", "path", "units"], [5, None, [], {"a": 1}]),
        *product(["ok"], [1, None, []]),
        *product(["reason"], [5, []]),
        *product(["load_seconds"], ["1", -1, 1e400, []]),
        ("path", "x" * 5000),
        ("path", "\0"),
    ],
)
def test_an_entry_of_other_types_counts_for_nothing(folder, name, value):
    record(folder, DIED)
    written = json.loads((folder / FILE).read_text())
    written["verdicts"][0][name] = value
    (folder / FILE).write_text(json.dumps(written))
    assert read_verdicts(folder) == ()
    record(folder, RUNS)
    assert read_verdicts(folder) == (RUNS,)


@pytest.mark.parametrize("rubbish", ["[" * 100_000, "{}", "5", '{"path": [1]}', None])
def test_a_note_of_rubbish_is_no_verdict(folder, rubbish):
    note = folder / ".anemone-trying-1-0"
    note.mkdir() if rubbish is None else note.write_text(rubbish)
    settle(folder)
    assert read_verdicts(folder) == ()


def test_where_the_folder_cannot_be_written_a_network_is_tried_once_and_runs(model, monkeypatch, caplog):
    attempts = Attempts(monkeypatch, CPU_AND_NE="it died")
    monkeypatch.setattr(trials, "FILE", "gone/anemone-trials.json")
    monkeypatch.setattr(trials, "_NOTE", "gone/.anemone-trying-")
    noted_paths = []
    actual = Trials(model, {}, noted_paths.append)
    (package, *_) = model.manifest.networks["unet"]
    assert [actual.units("unet", package) for _ in range(2)] == ["CPU_AND_GPU"] * 2
    assert [units for _, units in attempts.asked] == ["CPU_AND_NE", "CPU_AND_GPU"]
    assert "units are tried again each time the model is loaded" in caplog.text
    with actual._first("unet", package, "CPU_ONLY", "while it was loaded"):
        pass
    assert noted_paths == []


def test_a_later_versions_fields_are_passed_over(folder):
    record(folder, RUNS)
    written = json.loads((folder / FILE).read_text())
    written["verdicts"][0]["watts"] = 3
    (folder / FILE).write_text(json.dumps(written))
    assert read_verdicts(folder) == (RUNS,)


@pytest.fixture
def model(model_folder, tmp_path):
    return ModelFolder.open(shutil.copytree(model_folder.path, tmp_path / "tiny"))


class Attempts:
    """In place of `attempt`: what it is asked for, and how each unit does."""

    def __init__(self, monkeypatch, **reasons):
        self.asked, self.reasons = [], reasons
        monkeypatch.setattr(trials, "attempt", self)

    def __call__(self, path, function, units):
        self.asked.append((path.name, units))
        return Attempt(self.reasons.get(units), 1.0, 0.5)


def placed(model, network="unet", **settings):
    (package, *_) = model.manifest.networks[network]
    return Trials(model, settings, lambda note: None).units(network, package)


def test_what_fails_moves_on_to_the_next_unit_and_is_not_tried_again(model, monkeypatch, caplog):
    attempts = Attempts(monkeypatch, CPU_AND_NE="it died", CPU_AND_GPU="it hung")
    assert placed(model) == "CPU_ONLY"
    assert [units for _, units in attempts.asked] == ["CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY"]
    assert "unet does not run on CPU_AND_NE on this machine: it died" in caplog.text
    assert placed(model) == "CPU_ONLY"
    assert len(attempts.asked) == 3


def test_a_unit_that_was_asked_for_is_tried_alone_and_refused_where_it_fails(model, monkeypatch):
    attempts = Attempts(monkeypatch, ALL="it died")
    with pytest.raises(
        UnitError, match=r"ALL: it died.*compute_units asks for ALL; leave it out.*delete .*trials.json"
    ):
        placed(model, default="ALL")
    assert placed(model, unet="CPU_ONLY", default="ALL") == "CPU_ONLY"
    assert [units for _, units in attempts.asked] == ["ALL", "CPU_ONLY"]


def test_a_network_that_runs_nowhere_is_refused_with_every_reason(model, monkeypatch):
    Attempts(monkeypatch, CPU_AND_GPU="it died", CPU_ONLY="not finite")
    with pytest.raises(UnitError, match=r"CPU_AND_GPU: it died; CPU_ONLY: not finite\). After a change"):
        placed(model, "vae_decoder")


def test_a_note_is_a_verdict_once_its_process_is_dead_and_not_before(folder):
    program = f"""
import os, signal, sys
from pathlib import Path
from converter.devices.trials import Verdict, noted
died = Verdict("unet", "unet.mlpackage", "main", "CPU_AND_NE", False, "its process died", None, None)
with noted(Path({str(folder)!r}), died):
    print("at it", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        settle(folder)
        assert read_verdicts(folder) == ()
        process.kill()
        process.wait()
        settle(folder)
    assert [(v.units, v.ok, v.reason) for v in read_verdicts(folder)] == [("CPU_AND_NE", False, "its process died")]
    assert not list(folder.glob(".*"))


def test_a_note_that_is_over_or_half_written_is_no_verdict(folder):
    with pytest.raises(RuntimeError), noted(folder, DIED):
        raise RuntimeError
    (folder / ".anemone-trying-1-0").write_text('{"mach')
    settle(folder)
    assert read_verdicts(folder) == ()
    assert not list(folder.glob(".*"))


def test_the_first_load_and_the_first_prediction_are_noted_and_later_ones_are_not(model, monkeypatch):
    Attempts(monkeypatch)
    notes, there = [], []

    class Counting:
        inputs, outputs = {}, {}

        def predict(self, inputs):
            there.append(len(list(model.path.glob(".anemone-trying-*"))))
            return {}

    def loader(path, function, units):
        there.append(len(list(model.path.glob(".anemone-trying-*"))))
        return Counting()

    (package, *_) = model.manifest.networks["unet"]
    network = Trials(model, {}, notes.append).load("unet", package, loader)
    for _ in range(3):
        network.predict({})
    assert there == [1, 1, 0, 0]
    assert len(notes) == 2
    assert not any(note.exists() for note in notes)
