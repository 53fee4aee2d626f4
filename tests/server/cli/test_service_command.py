from __future__ import annotations

import plistlib
import shlex
import sys
from pathlib import Path

import pytest

from server.cli import service as command
from server.cli.main import main
from server.service.launchd import agent
from server.service.systemd import user_unit


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config home"))
    monkeypatch.setenv("PATH", str(tmp_path))  # no systemctl, no launchctl
    monkeypatch.setattr(command, "this_unit", lambda program, s: user_unit(program, tmp_path / "config home", s))


def exec_start(text: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    return shlex.split(line.removeprefix("ExecStart="))


def test_print_shows_what_install_would_write_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my model").mkdir()
    assert main(["service", "print", "--model", "my model", "--port", "8080", "--data-dir", "data dir"]) == 0
    words = exec_start(capsys.readouterr().out)
    assert words[:4] == [sys.executable, "-m", "server", "serve"]
    assert words[words.index("--model") + 1] == str(tmp_path / "my model")
    assert words[words.index("--data-dir") + 1] == str(tmp_path / "data dir")
    assert not (tmp_path / "config home").exists()


def test_an_address_on_the_hub_stays_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["service", "print", "--model", "somebody/model"]) == 0
    assert "somebody/model" in exec_start(capsys.readouterr().out)


def test_keys_and_tokens_stay_out_of_the_service(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANEMONE_API_KEY", "a-key-that-is-long-enough")
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    assert main(["service", "print"]) == 0
    told = capsys.readouterr().out
    assert "long-enough" not in told
    assert "hf_token" not in told


@pytest.mark.parametrize("wrong", [["--port", "99999"], ["--host", "nowhere"], ["--config", "no-such.toml"]])
def test_what_a_server_would_refuse_is_refused_now(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["service", "install", *wrong]) == 1
    assert wrong[1] in capsys.readouterr().err


def test_without_the_systems_command_the_file_is_written_and_the_failure_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "install"]) == 1
    path = tmp_path / "config home/systemd/user/anemone.service"
    assert path.is_file()
    told = capsys.readouterr().err
    assert str(path) in told
    assert "systemctl is not installed" in told
    assert main(["service", "status"]) == 3
    assert main(["service", "uninstall"]) == 0
    assert not path.exists()


def test_on_a_mac_a_property_list_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "this_unit", lambda program, s: agent(program, tmp_path, 501, s))
    assert main(["service", "print", "--port", "8080"]) == 0
    assert "8080" in plistlib.loads(capsys.readouterr().out.encode())["ProgramArguments"]
