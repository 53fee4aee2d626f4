from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli.main import main
from server.settings import default_config

LONG = "x" * 5000

#: Command lines with something wrong, and what the answer has to name. `file`, `folder`, `junk` (a file of other bytes),
#: `nowhere` (a link to nothing) and `unreadable` are in the current folder.
MISTAKES = [
    ("", "COMMAND"),
    ("paint", "paint"),
    (LONG, "xxx"),
    ("serve extra", "extra"),
    ("serve --port 99999", "port is '99999'; accepted: at most 65535"),
    ("serve --port -1", "port is '-1'; accepted: at least 0"),
    ("serve --port abc", "port is 'abc'; accepted: a whole number\n"),
    ("serve --port ''", "port"),
    ("serve --host ''", "host"),
    ("serve --data-dir ''", "data_dir"),
    ("serve --data-dir file", "file"),
    ("serve --data-dir file/x", "file/x"),
    ("serve --data-dir nowhere", "nowhere"),
    ("serve --data-dir ~nobody-of-this-name/x", "nobody-of-this-name"),
    ("serve --data-dir /proc/none", "/proc/none"),
    ("serve --config junk", "junk"),
    ("serve --config folder", "folder"),
    ("serve --config none", "none"),
    ("serve --config ''", "--config"),
    ("serve --config unknown.toml", "prot"),
    ("serve --config unknown.toml --port x", "port"),
    ("serve --tls-cert junk --tls-key junk", "junk"),
    ("serve --compute-units {", "compute_units"),
    ("serve --retention-days nan", "retention_days"),
    ("serve --model ''", "model"),
    (f"serve --log-format {LONG}", "log_format"),
    ("models extra", "extra"),
    ("models --data-dir file", "file"),
    ("models --data-dir nowhere", "nowhere"),
    ("models --data-dir ''", "--data-dir"),
    ("models --config folder", "folder"),
    ("doctor ''", "MODEL"),
    ("doctor none", "none"),
    ("doctor --data-dir file", "file"),
    ("doctor --chip M99", "M99"),
    ("service", "action"),
    ("service ''", "''"),
    ("service paint", "paint"),
    ("service print --port 99999", "port"),
    ("service print --port x", "'x'"),
    ("service print --data-dir file", "file"),
    ("service print --config none", "none"),
    ("lint", "folder"),
    ("lint ''", "folder"),
    ("lint file", "file"),
    ("lint folder", "folder"),
    ("lint none", "none"),
    (f"lint {LONG}", "xxx"),
    ("lint a b", "b"),
    ("adopt ''", "folder"),
    ("adopt file", "file"),
    ("adopt none", "none"),
    ("adopt folder --steps x", "--steps"),
    ("adopt folder --zeros-for-no-prompt x", "true, false"),
    ("verify", "folder"),
    ("verify '' --against ''", "folder"),
    ("verify folder", "--against"),
    ("verify none --against none", "none does not exist"),
    ("verify file --against file", "file"),
    ("verify folder --against x --only unet", "--only"),
    ("convert", "source"),
    ("convert x", "-o"),
    ("convert '' -o out", "source"),
    ("convert file -o ''", "--out"),
    ("convert file -o out", "file"),
    ("convert junk -o out", "junk"),
    ("convert folder -o out", "folder"),
    ("convert ./none -o out", "none"),
    ("convert folder -o file", "file"),
    ("convert folder -o nowhere", "nowhere"),
    ("convert ./none -o file/a/b", "file/a/b"),
    ("convert ./none -o /proc/a/b", "/proc/a/b"),
    ("convert folder -o out --size x", "--size"),
    ("convert folder -o out --attention x", "--attention"),
    ("convert folder -o out --batch x", "--batch"),
    ("convert folder -o out --vae ''", "--vae"),
    ("convert folder -o out --bogus", "--bogus"),
    ("generate", "prompt"),
    ("generate a b", "b"),
    ("generate a --steps 0", "1 to 150"),
    ("generate a --steps abc", "a whole number, 1 to 150"),
    ("generate a --steps ''", "--steps"),
    ("generate a -n 0", "1 to 10"),
    ("generate a -n 2.5", "a whole number"),
    ("generate a --seed x", "--seed"),
    ("generate a --seed -2", "-2"),
    ("generate a --seeds 1 x", "--seeds"),
    ("generate a --guidance-scale nan", "0 to 30"),
    ("generate a --guidance-scale x", "a number, 0 to 30"),
    ("generate a --scheduler x", "dpm++_2m"),
    ("generate a --rng x", "torch"),
    ("generate a --size 5", "WIDTHxHEIGHT"),
    ("generate a --precision x", "fp32"),
    ("generate a --image none", "none"),
    ("generate a --image folder", "folder"),
    ("generate a --image junk", "junk"),
    ("generate a --image ''", "--image"),
    ("generate a -o ''", "--out"),
    ("generate a -o folder", "folder/out.png"),
    ("generate a -o none/a.png", "none"),
    ("generate a -o file/a.png", "file/a.png"),
    ("generate a -o a.gif", ".png, .webp, .jpg, .jpeg"),
    ("generate a -o a.png --format jpeg", "a.jpg"),
    ("generate a --format gif", "png"),
    ("generate a -o a.webp --quality 0", "1 to 100"),
    ("generate a -o /proc/a.png", "/proc/a.png"),
    (f"generate a -o {LONG}.png", "xxx"),
    ("generate a --control edges.png", "image=..."),
    ("generate a --control weight=3", "0 to 2"),
    ("generate a --lora film:5", "-4 to 4"),
    ("generate a --lora film:1 size=3", "name=..., weight=..., text_weight=..."),
    ("generate a --control image=", "--control"),
    ("generate a --control image=none", "none"),
    ("generate a --mask-blur 100", "0 to 64"),
    ("generate a --invert-mask yes", "yes"),
    ("generate a --model ''", "--model"),
    ("generate a --model none/none/none", "none"),
    ("generate a --data-dir file", "file"),
    (f"generate a --steps {LONG}", "1 to 150"),
    ("generate " + LONG * 3, "10000 characters"),
    ("generate a\udcff", "surrogates"),
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the current folder, and let no setting or model of this machine take part."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "junk").write_bytes(bytes(range(256)))
    (tmp_path / "unknown.toml").write_text("prot = 3\n")
    (tmp_path / "nowhere").symlink_to(tmp_path / "not there")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("ANEMONE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def _words(line: str) -> list[str]:
    return ["" if word == "''" else word for word in line.split()]


def _status(line: str) -> int:
    try:
        return main(_words(line))
    except SystemExit as exiting:
        return int(exiting.code or 0)


@pytest.mark.parametrize(("line", "named"), MISTAKES, ids=[line[:60] for line, _ in MISTAKES])
def test_a_mistake_is_answered_in_a_few_lines_that_name_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, named: str
) -> None:
    assert _status(line) in (1, 2)
    answer = capsys.readouterr()
    assert named in answer.err
    assert answer.err.startswith("anemone")
    assert len(answer.err.splitlines()) <= 3
    assert len(answer.err) < 1600
    assert answer.out == ""
    made = {path.name for path in tmp_path.iterdir()} - {"file", "folder", "junk", "unknown.toml", "nowhere"}
    assert made <= {"data"}, "something was written"


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("ANEMONE_PORT", "abc", "port"),
        ("ANEMONE_TLS", "maybe", "tls"),
        ("ANEMONE_CONFIG", "none", "none"),
        ("ANEMONE_COMPUTE_UNITS", "[]", "compute_units"),
        ("ANEMONE_DATA_DIR", "file", "file"),
        ("ANEMONE_BOGUS", "1", "ANEMONE_BOGUS"),
        ("ANEMONE_API_KEY", "short", "api_key: the key is too short"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "models", "doctor", "generate a", "service print"])
def test_a_wrong_variable_is_named_by_every_command_that_reads_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    named: str,
    command: str,
) -> None:
    monkeypatch.setenv(variable, value)
    assert _status(command) == 1
    answer = capsys.readouterr()
    assert named in answer.err
    assert len(answer.err.splitlines()) == 1


def test_the_usual_settings_file_may_not_be_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    default_config().mkdir(parents=True)
    assert _status("models") == 1
    assert f"{default_config()} is not a file" in capsys.readouterr().err


def test_a_user_without_a_home_folder_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert _status("models") == 1
    assert "set HOME" in capsys.readouterr().err


def test_a_settings_file_may_name_folders_by_tilde(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.toml").write_text('data_dir = "~/Anemone"\n')
    assert _status("models --config a.toml") == 0
    assert str(tmp_path / "home/Anemone/models") in capsys.readouterr().out


def test_folders_may_be_relative_and_have_spaces_and_any_letters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "any möne 模型").mkdir()
    assert main(["models", "--data-dir", "any möne 模型"]) == 0
    assert "any möne 模型/models" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "redirection", "status"),
    [
        ({}, "</dev/null", 0),
        ({}, "<&-", 0),
        ({}, ">&-", 0),
        ({}, "2>&-", 0),
        ({}, "<&- >&- 2>&-", 0),
        pytest.param(
            {},
            ">/dev/full",
            1,
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full disk"),
        ),
        ({"TERM": "dumb", "NO_COLOR": "1"}, "", 0),
        ({"LC_ALL": "C"}, "", 0),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, "", 0),
        ({"PYTHONIOENCODING": "ascii:strict"}, "", 0),
    ],
)
def test_streams_may_be_closed_full_or_of_another_encoding(
    environment: dict[str, str], redirection: str, status: int
) -> None:
    command = f'"$0" -m server models --data-dir "$1" {redirection}'
    # APFS has no file names that are not text.
    folder = "möne 模型".encode() + (b"" if sys.platform == "darwin" else b" no \xff text")
    os.mkdir(folder)
    ran = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, folder], capture_output=True, env={**os.environ, **environment}
    )
    assert ran.returncode == status
    assert b"Traceback" not in ran.stderr
    assert b"Exception" not in ran.stderr
    if not redirection:
        assert ran.stdout.startswith(b"no models in ")
