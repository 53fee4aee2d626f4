"""Trials in a real child process, on a Mac as a double plays it."""

from __future__ import annotations

import re
import shutil

import pytest

from converter.devices.attempt import _outcome, attempt
from converter.errors import AnemoneError
from tests.support.mac_double.process import environment

pytestmark = pytest.mark.slow


@pytest.fixture
def encoder(model_folder, tmp_path):
    return shutil.copytree(model_folder.package("text_encoder"), tmp_path / "text_encoder.mlpackage")


@pytest.fixture
def mac(tmp_path, monkeypatch):
    def behaving(how):
        behavior = {"text_encoder": {"CPU_AND_NE": how}}
        for name, value in environment(tmp_path / "log", behavior=behavior, release_seconds=0.0).items():
            monkeypatch.setenv(name, value)

    return behaving


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("", None),
        ("die", r"its process died in its first prediction \(it was ended by SIGKILL\)"),
        ("raise", "RuntimeError: Unable to compute the prediction"),
        ("load", "RuntimeError: Error in building plan"),
        ("nan", "its last_hidden_state.* numbers that are not finite"),
    ],
)
def test_a_trial_says_how_a_unit_does(encoder, mac, how, reason):
    mac(how)
    actual = attempt(encoder, "main", "CPU_AND_NE")
    assert (actual.reason is None) == (reason is None)
    assert re.search(reason or "", actual.reason or ""), actual.reason
    assert (actual.load_seconds is None) == (how == "load")
    assert (actual.predict_seconds is None) == (how in ("die", "raise", "load"))


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ("import os; os._exit(0)", r"died while it was loaded \(it ended with status 0\)"),
        ("import os, sys; os.kill(os.getpid(), 40)", r"died while it was loaded \(it was ended by signal 40\)"),
        (
            'import os; os.write({report}, b\'{{"load_seconds": 1}}\\n{{"done": nu\'); os.abort()',
            "first prediction .*SIGABRT",
        ),
    ],
)
def test_a_process_that_ends_in_another_way_is_told_of(encoder, monkeypatch, ends, reason):
    of_report = "import json, sys; report = json.loads(sys.argv[1])['report']; "
    program = of_report + ends.replace("{report}", "report").replace("{{", "{").replace("}}", "}")
    monkeypatch.setattr("converter.devices.attempt._CHILD", program)
    assert re.search(reason, attempt(encoder, "main", "CPU_ONLY").reason)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(28, "No space left on device"), True),
        (RuntimeError("compile: No space left on device"), True),
        (RuntimeError("x" * 10**6), False),
    ],
)
def test_a_full_disk_is_no_verdict_and_long_messages_are_cut(encoder, monkeypatch, error, raised):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr("converter.devices.attempt.load", fails)
    ((kind, message),) = _outcome(encoder, "main", "CPU_AND_NE", lambda **what: None).items()
    assert kind == ("error" if raised else "done")
    assert len(message) < 1010


def test_a_trial_that_hangs_is_given_up(encoder, mac):
    mac("hang")
    assert attempt(encoder, "main", "CPU_AND_NE", limit_seconds=8).reason.startswith("it did not finish within 8 s")


def test_a_damaged_package_is_no_verdict_on_a_unit(encoder, mac):
    mac("")
    (encoder / "Data/com.apple.CoreML/model.mlmodel").write_bytes(b"no model")
    with pytest.raises(AnemoneError, match="damaged"):
        attempt(encoder, "main", "CPU_AND_NE")
