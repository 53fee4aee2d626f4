"""The whole server on a simulated Mac whose compute units fail: real processes that really die."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from converter.devices import trials
from converter.devices.trials import Verdict, read_verdicts
from converter.folder import ModelFolder
from tests.support.live_server import answers, enqueue, over, until
from tests.support.mac_double.process import environment

pytestmark = pytest.mark.slow

CHIP = "Apple M2 Pro, macOS 26.1 (25B78)"


@pytest.fixture
def model(model_folder: ModelFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder.path, tmp_path / "tiny"))


@dataclass
class Server:
    client: httpx.Client
    log: Path
    mac_log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def units(self) -> dict[str, list[str]]:
        """The compute units of each network's predictions in the order they were first tried."""
        units_of: dict[str, list[str]] = {}
        for line in self.mac_log.read_text().splitlines():
            _, what, name, units = line.split()
            network = next(n for n in ("unet", "vae_decoder", "text_encoder") if n in name)
            if what == "predict" and units not in units_of.setdefault(network, []):
                units_of[network].append(units)
        return units_of


@contextmanager
def serving(folder: Path, model: Path, *flags: str, ready: bool = True, **mac: Any) -> Iterator[Server]:
    folder.mkdir(exist_ok=True)
    server = Server(httpx.Client(), folder / "log", folder / "mac")
    server.mac_log.write_text("")
    command = [sys.executable, "-m", "server", "serve", "--port", "0", "--data-dir", str(folder), "--model", str(model)]
    with server.log.open("w") as errors:
        env = {**os.environ, "OMP_WAIT_POLICY": "passive", **environment(server.mac_log, **mac)}
        process = subprocess.Popen([*command, *flags], stderr=errors, env=env)
    try:
        url = until(lambda: re.search(r"http://[\d.]+:\d+", server.said) or process.poll() is not None).group()
        with httpx.Client(base_url=url, timeout=300) as server.client:
            until(lambda: answers(server.client))
            if ready:
                until(lambda: server.client.get("/readyz").status_code == 200, 300)
            yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


def ended_job(server: Server) -> dict[str, Any]:
    return over(server.client, enqueue(server.client, "red", width=64, height=64, steps=1, seed=1)["id"])


def verdicts(model: Path, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Verdict]:
    monkeypatch.setattr(trials, "this_machine", lambda: CHIP)
    return {(v.network, v.units): v for v in read_verdicts(model)}


def test_a_unit_that_kills_is_tried_once_in_a_child_and_the_image_comes_from_the_next(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = {"unet": {"CPU_AND_NE": "die"}, "text_encoder": {"CPU_AND_NE": "nan"}}
    with serving(tmp_path / "data", model, behavior=deadly) as server:
        job = ended_job(server)
        assert (job["status"], job["attempts"]) == ("succeeded", 1)
        assert (
            "unet does not run on CPU_AND_NE on this machine: its process died in its first prediction" in server.said
        )
        assert "the worker died" not in server.said
        assert server.units["unet"] == ["CPU_AND_NE", "CPU_AND_GPU"]
        assert server.units["text_encoder"] == ["CPU_AND_NE", "CPU_AND_GPU"]
        assert server.units["vae_decoder"] == ["CPU_AND_GPU"]
    by_unit = verdicts(model, monkeypatch)
    assert by_unit["unet", "CPU_AND_NE"].reason == "its process died in its first prediction (it was ended by SIGKILL)"
    assert by_unit["unet", "CPU_AND_NE"].load_seconds is not None
    assert "not finite" in str(by_unit["text_encoder", "CPU_AND_NE"].reason)
    assert by_unit["unet", "CPU_AND_GPU"].ok
    assert by_unit["vae_decoder", "CPU_AND_GPU"].ok

    with serving(tmp_path / "data", model, behavior=deadly) as server:
        assert ended_job(server)["status"] == "succeeded"
        assert server.units["unet"] == server.units["text_encoder"] == ["CPU_AND_GPU"]


def test_a_worker_that_dies_in_a_first_prediction_marks_the_unit_and_not_the_job(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = {"unet": {"CPU_AND_NE": "die in worker"}, "vae_decoder": {"CPU_AND_GPU": "die in worker"}}
    with serving(tmp_path / "data", model, behavior=deadly) as server:
        job = ended_job(server)
        # Two deaths that count against the job would end it.
        assert (job["status"], job["attempts"]) == ("succeeded", 3)
        assert server.said.count("in a compute unit's first try") == 2
        assert server.units["unet"] == ["CPU_AND_NE", "CPU_AND_GPU"]
        assert server.units["vae_decoder"] == ["CPU_AND_GPU", "CPU_ONLY"]
    assert verdicts(model, monkeypatch)["unet", "CPU_AND_NE"].reason == "its process died in its first prediction"
    assert not list(model.glob(".anemone-trying-*"))


def test_a_unit_that_was_asked_for_and_fails_is_refused_and_not_replaced(model: Path, tmp_path: Path) -> None:
    flags = ("--compute-units", '{"unet": "CPU_AND_NE"}')
    with serving(tmp_path / "data", model, *flags, ready=False, behavior={"unet": {"CPU_AND_NE": "raise"}}) as server:
        until(lambda: server.client.get("/readyz").json()["state"] == "failed", 300)
        message = server.client.get("/readyz").json()["message"]
        assert "compute_units asks for CPU_AND_NE; leave it out, or name another unit" in message
        assert "Unable to compute the prediction" in message
        assert server.units["unet"] == ["CPU_AND_NE"]
