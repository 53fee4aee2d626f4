from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support import fake_pipeline
from tests.support.live_server import PATIENCE, answers, enqueue, live, over, running, until

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).resolve().parents[3]

#: A server like that of `anemone serve`, with the fake pipeline.
_SERVER = """
import sys
from pathlib import Path
from server.signals import end_at_once, end_gently_then_at_once
end_gently_then_at_once()
from tests.support.live_server import bound, server
if __name__ == "__main__":
    with bound() as listening:
        print(listening.getsockname()[1], flush=True)
        one = server(Path(sys.argv[1]), grace=float(sys.argv[2]))
        one.run(sockets=[listening])
        sys.exit(one.status)
"""


@pytest.fixture(autouse=True)
def _children_heed_signals() -> Iterator[None]:
    """Let children start with the signals' defaults: a shell's ``&`` has them ignore SIGINT, nohup SIGHUP."""
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    inherited = {number: signal.signal(number, default) for number, default in defaults.items()}
    yield
    for number, handler in inherited.items():
        signal.signal(number, handler)


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command, which can import the tests, in a process group of its own, as a shell does; kill the group in the end."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    with subprocess.Popen(command, text=True, start_new_session=True, env=environment, **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def anemone(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "server", *arguments)


@contextmanager
def serving(tmp_path: Path, grace: float) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    script = tmp_path / "serving.py"
    script.write_text(_SERVER)
    with started(sys.executable, str(script), str(tmp_path / "data"), str(grace)) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, process.communicate()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False) as client:
            until(lambda: answers(client))
            until(lambda: client.get("/readyz").status_code == 200)
            yield process, client


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGINT, 0.15),
        (signal.SIGINT, 1.7),
        (signal.SIGTERM, 0.4),
        (signal.SIGHUP, 1.0),
    ],
)
def test_a_signal_in_the_first_seconds_ends_a_command_without_a_traceback(
    tmp_path: Path, number: signal.Signals, after: float
) -> None:
    command = anemone("generate", "a circle", "-o", str(tmp_path / "a.png"), "--data-dir", str(tmp_path / "data"))
    with started(*command) as process:
        time.sleep(after)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in (128 + number, -number)
    assert "Traceback" not in errors
    assert not [p for p in tmp_path.iterdir() if p.is_file()]


@pytest.mark.parametrize("after", [0.5, 1.5, 3.0])
def test_ctrl_c_in_the_first_seconds_of_a_server_and_its_children_prints_no_traceback(
    tmp_path: Path, after: float
) -> None:
    with started(*anemone("serve", "--port", "0", "--data-dir", str(tmp_path / "data"))) as process:
        time.sleep(after)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_the_first_ctrl_c_waits_for_the_running_job_and_says_so(tmp_path: Path) -> None:
    with serving(tmp_path, grace=60) as (process, client):
        job = enqueue(client, "slow", steps=10)["id"]
        running(client, job)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "may take up to 60 s to finish; Ctrl-C again ends it now" in errors
    assert len(errors.splitlines()) == 1
    with live(tmp_path / "data") as client:
        assert over(client, job)["attempts"] == 1


def test_a_second_ctrl_c_ends_the_server_at_once_and_its_jobs_stay(tmp_path: Path) -> None:
    with serving(tmp_path, grace=300) as (process, client):
        job, waiting = (enqueue(client, "slow", steps=steps)["id"] for steps in (100, 1))
        running(client, job)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr is not None
        assert "stopping" in process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=5)
    assert (process.returncode, errors) == (130, "")
    with live(tmp_path / "data") as client:
        running(client, job)
        client.delete(f"/api/v1/jobs/{job}")  # begun again, it takes 10 s to its end
        assert over(client, waiting)["status"] == "succeeded"


def test_a_service_that_is_told_to_stop_ends_well(tmp_path: Path) -> None:
    with serving(tmp_path, grace=60) as (process, client):
        job = enqueue(client, "slow", steps=5)["id"]
        running(client, job)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
    with live(tmp_path / "data") as client:
        assert over(client, job)["attempts"] == 1


def test_a_closed_terminal_ends_the_server_gently_though_it_may_be_told_so_twice(tmp_path: Path) -> None:
    with serving(tmp_path, grace=60) as (process, client):
        job = enqueue(client, "slow", steps=10)["id"]
        running(client, job)
        for _ in range(2):
            os.killpg(process.pid, signal.SIGHUP)
            time.sleep(0.2)
        process.communicate(timeout=60)
    assert process.returncode == 0
    with live(tmp_path / "data") as client:
        assert over(client, job)["attempts"] == 1


def test_nohup_keeps_the_server_after_its_terminal(tmp_path: Path) -> None:
    model = fake_pipeline.write_model(tmp_path / "none")
    command = anemone("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), "--model", str(model))
    with started("nohup", *command) as process:
        assert process.stderr is not None
        assert any("Anemone at" in line for line in process.stderr)
        os.killpg(process.pid, signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("command", [("models",), ("doctor", "--quick"), ("generate", "--help")])
def test_a_reader_that_leaves_early_is_no_error_to_read_about(tmp_path: Path, command: tuple[str, ...]) -> None:
    with started(*anemone(*command, *(["--data-dir", str(tmp_path)] if "--help" not in command else []))) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        process.wait(timeout=60)
    assert process.returncode in (0, 1)
    assert "BrokenPipe" not in errors
    assert "Traceback" not in errors


def _interrupted_command(tmp_path: Path, main: str) -> subprocess.CompletedProcess[str]:
    """Run a process of `anemone` whose command is the function ``main`` of a source text."""
    script = tmp_path / "interrupted.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "from types import ModuleType\n"
        "from server.cli.start import start\n"
        f"{main}"
        "sys.modules['server.cli.main'] = ModuleType('main')\n"
        "sys.modules['server.cli.main'].main = main\n"
        "sys.exit(start())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    command = [sys.executable, str(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_of_an_import_waits_for_its_end(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "imported.py").write_text(
        "import os, signal, time\n"
        f"os.kill(os.getpid(), {number:d})\n"
        "for _ in range(30): time.sleep(0.01)\n"
        "print('imported', flush=True)\n"
    )
    done = _interrupted_command(
        tmp_path,
        "def main():\n    import imported\n    while True: time.sleep(1)\n",
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "imported\n", "anemone: interrupted\n")


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.06, 0.3])
def test_a_second_signal_ends_an_import_at_once(tmp_path: Path, pause: float) -> None:
    (tmp_path / "imported.py").write_text(
        "import os, signal, time\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        f"time.sleep({pause})\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "while True: time.sleep(0.01)\n"
    )
    done = _interrupted_command(tmp_path, "def main(): import imported\n")
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_that_lands_in_a_destructor_ends_the_command_all_the_same(
    tmp_path: Path, number: signal.Signals
) -> None:
    done = _interrupted_command(
        tmp_path,
        "class Closing:\n"
        "    def __del__(self):\n"
        f"        os.kill(os.getpid(), {number:d})\n"
        "        while True: pass\n"
        "def main():\n"
        "    Closing()\n"
        "    while True: time.sleep(1)\n",
    )
    assert (done.returncode, done.stderr) == (128 + number, "anemone: interrupted\n")


def test_errors_of_others_are_printed_as_ever(tmp_path: Path) -> None:
    done = _interrupted_command(
        tmp_path,
        "class Closing:\n"
        "    def __del__(self): raise ValueError('in a destructor')\n"
        "def main():\n"
        "    Closing()\n"
        "    raise ValueError('in the command')\n",
    )
    assert done.returncode == 1
    assert "ValueError: in a destructor" in done.stderr
    assert "ValueError: in the command" in done.stderr
