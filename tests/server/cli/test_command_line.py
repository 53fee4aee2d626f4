from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.cli.main import main


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


@pytest.fixture
def anemone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs a command in this process: a new one takes a second for its imports."""
    monkeypatch.setenv("ANEMONE_DATA_DIR", str(tmp_path / "data"))

    def run(*arguments: str) -> Ran:
        try:
            status = main(arguments)
        except SystemExit as exiting:
            status = int(exiting.code or 0)
        return Ran(status, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    "command", ["serve", "service", "models", "convert", "adopt", "merge", "verify", "lint", "generate", "doctor"]
)
def test_every_command_has_examples_in_its_help(anemone: Callable[..., Ran], command: str) -> None:
    ran = anemone(command, "--help")
    assert ran.status == 0
    assert f"anemone {command}" in ran.out.partition("example")[2]


@pytest.mark.parametrize("host", ["example.com", "256.0.0.1", "", "localhost:7860"])
def test_what_is_no_address_to_listen_on_is_named_with_what_is(anemone: Callable[..., Ran], host: str) -> None:
    ran = anemone("serve", "--host", host)
    assert ran.status == 1
    assert repr(host) in ran.err
    assert "127.0.0.1" in ran.err


def test_a_model_that_is_not_there_is_named(anemone: Callable[..., Ran], tmp_path: Path) -> None:
    ran = anemone("generate", "a circle", "--model", str(tmp_path / "nothing"), "-o", str(tmp_path / "a.png"))
    assert ran.status == 1
    assert "nothing" in ran.err
    assert not (tmp_path / "a.png").exists()


def test_a_port_in_use_is_named(anemone: Callable[..., Ran], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ran = anemone("serve", "--port", port, "--model", str(tmp_path))
    assert ran.status == 1
    assert port in ran.err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("typo", "the model typo does not exist; accepted: "),
        ("/no/such/folder", "the model /no/such/folder does not exist; accepted: "),
        (".", "model_index.json is missing; "),
        (__file__, "is not a safetensors file; "),
    ],
)
def test_a_model_that_is_none_ends_the_server_before_it_serves(
    anemone: Callable[..., Ran], tmp_path: Path, given: str, words: str
) -> None:
    ran = anemone("serve", "--port", "0", "--model", str(tmp_path) if given == "." else given)
    assert (ran.status, len(ran.err.splitlines())) == (1, 1)
    assert ran.err.startswith("anemone: ")
    assert words in ran.err


@pytest.mark.slow
def test_an_address_that_cannot_be_downloaded_ends_a_server_without_a_model(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
    command += ["--model", "somebody/nothing"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("anemone: the model cannot be loaded: ")
    assert "somebody/nothing" in last


@pytest.fixture
def _children_take_sigint() -> Iterator[None]:
    """Let children start with SIGINT's default: a shell without job control starts background commands ignoring it."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.slow
@pytest.mark.usefixtures("_children_take_sigint")
def test_two_servers_do_not_share_a_data_folder_and_ctrl_c_ends_the_first_quietly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data-dir", str(tmp_path)]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    assert "http://127.0.0.1:" in first.stderr.readline()
    second = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert second.returncode == 1
    assert str(tmp_path) in second.stderr
    time.sleep(1)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "Traceback" not in errors


def test_what_the_disk_refuses_is_said_in_a_line(anemone: Callable[..., Ran], tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / ".busy.partial").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for out, words in {
        "x" * 250: "File name too long",
        "file/model": "Not a directory|File exists",
        "busy": r"File exists: .*\.busy\.partial|Not a directory: .*\.busy\.partial",
        "dangling": "is a link, which a conversion would replace",
    }.items():
        ran = anemone("convert", str(checkpoint), "--no-verify", "-o", str(tmp_path / out))
        assert ran.status == 1
        assert re.search(f"^anemone: .*({words})", ran.err, re.M), (out, ran.err)


def test_a_checkpoints_names_do_not_reach_the_terminal_as_escapes(
    anemone: Callable[..., Ran], tmp_path: Path, checkpoint: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    index = {"_class_name": "StableDiffusionPipeline", "a\x1b[31m\r": ["x", "\x1b]0;gone\x07"]}
    (source / "model_index.json").write_text(json.dumps(index))
    ran = anemone("convert", str(source), "--no-verify", "-o", str(tmp_path / "out"))
    assert ran.status == 0, ran.err
    assert r"left out: a\x1b[31m\r (\x1b]0;gone\x07) is not converted" in ran.out
    (source / "unet/config.json").write_text('{"_class_name": "\\u001b[2J"}')
    ran = anemone("convert", str(source), "-o", str(tmp_path / "out"))
    assert (ran.status, "\x1b" in ran.err) == (1, False)
