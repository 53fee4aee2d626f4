from __future__ import annotations

import plistlib
import shutil
import subprocess
from pathlib import Path

import pytest

from server.service.install import ServiceError, install, status, uninstall
from server.service.launchd import agent
from server.service.systemd import quoted, user_unit
from server.service.unit import Command, Unit

PROGRAM = ("/Users/Ada Lovelace/any mone/bin/python", "-m", "server", "serve", "--model", 'a "b" 100% $HOME \\ é')


class Runner:
    """Stands in for the system's commands; those that begin with ``failing`` fail."""

    def __init__(self, failing: Command = ("nothing",)) -> None:
        self.ran: list[Command] = []
        self._failing = failing

    def __call__(self, command: Command) -> tuple[int, str]:
        self.ran.append(command)
        failed = command[: len(self._failing)] == self._failing
        return (5, "Input/output error") if failed else (0, "")


def launchd(home: Path) -> Unit:
    return agent(PROGRAM, home / "with space", 501, 10)


def systemd(home: Path) -> Unit:
    return user_unit(PROGRAM, home / "with space", 10)


def test_the_agent_says_word_for_word_what_to_run_and_starts_it_again_after_a_crash(tmp_path: Path) -> None:
    unit = launchd(tmp_path)
    told = plistlib.loads(unit.content)
    assert told["ProgramArguments"] == list(PROGRAM)
    assert told["KeepAlive"] == {"SuccessfulExit": False}
    assert told["RunAtLoad"] is True
    assert told["ExitTimeOut"] > 10
    assert told["Umask"] == 0o077
    assert unit.path == tmp_path / "with space/Library/LaunchAgents/anemone.server.plist"


def test_the_agent_is_loaded_into_its_users_session(tmp_path: Path) -> None:
    unit, run = launchd(tmp_path), Runner()
    said = install(unit, run)
    assert unit.path.read_bytes() == unit.content
    assert Path(plistlib.loads(unit.content)["StandardErrorPath"]).parent.is_dir()
    assert run.ran[0] == ("launchctl", "bootout", "gui/501/anemone.server")
    assert run.ran[-1] == ("launchctl", "bootstrap", "gui/501", str(unit.path))
    assert str(unit.path) in said


def test_the_unit_lets_the_server_stop_its_worker_and_with_it_the_running_job(tmp_path: Path) -> None:
    assert "\nKillMode=mixed\n" in systemd(tmp_path).content.decode()


def test_the_unit_is_enabled_and_restarted(tmp_path: Path) -> None:
    unit, run = systemd(tmp_path), Runner()
    install(unit, run)
    assert [command[2] for command in run.ran] == ["daemon-reload", "enable", "restart"]
    assert unit.path.read_bytes() == unit.content
    assert unit.path.parent.parent == tmp_path / "with space/systemd"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "any mone" / "python"
    program.parent.mkdir()
    program.symlink_to("/bin/true")
    unit = user_unit((str(program), *PROGRAM[1:]), tmp_path, 10)
    unit.path.parent.mkdir(parents=True)
    unit.path.write_bytes(unit.content)
    ran = subprocess.run(["systemd-analyze", "--user", "verify", str(unit.path)], capture_output=True, text=True)
    complaints = [line for line in (ran.stdout + ran.stderr).splitlines() if unit.path.name in line]
    assert complaints == []


@pytest.mark.parametrize(
    ("argument", "written"),
    [
        ("plain", '"plain"'),
        ("two words", '"two words"'),
        ('say "hi"', r'"say \"hi\""'),
        ("C:\\x", r'"C:\\x"'),
        ("100%", '"100%%"'),
        ("$HOME", '"$$HOME"'),
        ("a\nExecStart=/bin/sh", r'"a\nExecStart=/bin/sh"'),
    ],
)
def test_arguments_reach_the_program_as_they_are(argument: str, written: str) -> None:
    assert quoted(argument) == written


@pytest.mark.parametrize("make", [launchd, systemd])
def test_a_system_that_does_not_load_it_is_quoted(tmp_path: Path, make) -> None:
    unit = make(tmp_path)
    with pytest.raises(ServiceError, match="Input/output error") as caught:
        install(unit, Runner(unit.load[-1]))
    assert str(unit.path) in str(caught.value)


@pytest.mark.parametrize("make", [launchd, systemd])
def test_an_earlier_one_that_is_not_there_is_no_failure(tmp_path: Path, make) -> None:
    unit = make(tmp_path)
    install(unit, Runner(unit.forget[0] if unit.forget else ("nothing",)))
    assert unit.path.exists()


@pytest.mark.parametrize("make", [launchd, systemd])
def test_uninstalling_stops_it_removes_the_file_and_can_be_done_twice(tmp_path: Path, make) -> None:
    unit, run = make(tmp_path), Runner()
    install(unit, run)
    run.ran.clear()
    assert "removed" in uninstall(unit, run)
    assert not unit.path.exists()
    assert run.ran == list(unit.unload)
    assert "nothing to remove" in uninstall(unit, run)


@pytest.mark.parametrize("make", [launchd, systemd])
def test_status_tells_whether_it_is_installed_and_runs(tmp_path: Path, make) -> None:
    unit = make(tmp_path)
    assert status(unit, Runner()) == (False, "not installed; run `anemone service install`")
    install(unit, Runner())
    assert status(unit, Runner())[0] is True
    runs, said = status(unit, Runner(unit.status))
    assert runs is False
    assert "not running" in said
