from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from converter.errors import AnemoneError
from converter.progress import Progress
from server.events import EventLog
from server.models.conversions import Conversions, LaunchConversion, launch_conversion
from server.models.first import FirstModel
from tests.support import fake_converter
from tests.support.fake_hub import FakeHub, Repository

PATIENCE = 300  # a conversion verifies itself with PyTorch and diffusers, which a busy machine takes minutes to import


@dataclass
class Listener:
    """Records what it receives."""

    progress: list[Progress] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    installed: list[str] = field(default_factory=list)

    def on_progress(self, progress: Progress) -> None:
        self.progress.append(progress)

    def on_failure(self, message: str) -> None:
        self.failures.append(message)

    def on_installed(self, model: str) -> None:
        self.installed.append(model)


@contextmanager
def started(
    given: Path, data_dir: Path, launch: LaunchConversion | None = None
) -> Iterator[tuple[FirstModel, Listener]]:
    first, listener = FirstModel(given, data_dir), Listener()
    conversions = Conversions(data_dir, first.models, EventLog(), launch or launch_conversion(data_dir))
    first.start(conversions, listener)
    conversions.start()
    try:
        yield first, listener
    finally:
        conversions.stop()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """Return a hub that conversion processes download from."""
    running = FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield running
    running.close()


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE)
def test_an_address_on_the_hub_is_downloaded_and_converted_before_the_workers_start(
    checkpoint: Path, hub: FakeHub, tmp_path: Path
) -> None:
    files = {p.relative_to(checkpoint).as_posix(): p.read_bytes() for p in checkpoint.rglob("*") if p.is_file()}
    hub.repositories["somebody/tiny"] = Repository(files)
    given, data = Path("somebody/tiny"), tmp_path / "data"
    with started(given, data) as (first, listener):
        assert not listener.installed
        until(lambda: listener.installed or listener.failures)
        assert listener.installed == ["tiny"], listener.failures
    assert {"downloading", "converting", "verifying"} <= {now.stage for now in listener.progress}
    assert first.folder == data / "models" / "tiny"
    assert first.models.manifest("tiny").source.path_or_id == "somebody/tiny"
    asked = len(hub.requests)
    with started(given, data) as (_, listener):
        assert len(listener.installed) == 1
    assert len(hub.requests) == asked


def test_a_source_that_is_not_there_says_so(hub: FakeHub, tmp_path: Path) -> None:
    with started(Path("somebody/nothing"), tmp_path / "data") as (_, listener):
        until(lambda: listener.failures)
    assert "no repository of that name" in listener.failures[-1]
    assert not listener.installed


def test_a_converted_folder_is_used_where_it_is(model_folder, tmp_path: Path) -> None:
    with started(model_folder.path, tmp_path) as (first, listener):
        assert len(listener.installed) == 1
        assert first.folder == first.models.folder(first.models.default or "") == model_folder.path


def test_a_checkpoint_is_converted_once_and_again_when_it_has_changed(checkpoint: Path, tmp_path: Path) -> None:
    launch = fake_converter.launcher(tmp_path)
    with started(checkpoint, tmp_path, launch) as (first, listener):
        until(lambda: listener.installed)
        assert not first.is_ready  # what the fake has made bears no checkpoint's stamp
        assert first.models.default == checkpoint.name
    with started(checkpoint, tmp_path, launch) as (_, listener):
        until(lambda: listener.installed)
    assert fake_converter.begun(tmp_path) == [str(checkpoint)] * 2


def test_progress_is_passed_on_as_the_conversion_reports_it(tmp_path: Path) -> None:
    with started(tmp_path / "steady", tmp_path, fake_converter.launcher(tmp_path)) as (_, listener):
        until(lambda: listener.installed)
    assert listener.progress[0] == Progress("downloading", "unet.safetensors", 50, 100)
    assert ("unet", 3, 100) in {(now.item, now.done, now.total) for now in listener.progress}


def test_a_cancelled_conversion_leaves_a_server_that_says_so(tmp_path: Path) -> None:
    first, listener = FirstModel(tmp_path / "slow", tmp_path), Listener()
    conversions = Conversions(tmp_path, first.models, EventLog(), fake_converter.launcher(tmp_path))
    first.start(conversions, listener)
    conversions.start()
    until(lambda: listener.progress)
    conversions.cancel(first.request.id)
    until(lambda: listener.failures)
    conversions.stop()
    assert "cancelled" in listener.failures[-1]
    assert json.loads((tmp_path / "conversions" / f"{first.request.id}.json").read_text())["status"] == "cancelled"


def test_what_can_be_no_model_is_refused_before_anything_starts(checkpoint: Path, model_folder, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(model_folder.path, tmp_path / "damaged"))
    next(damaged.rglob("weight.bin")).unlink()
    unsupported = Path(shutil.copytree(checkpoint, tmp_path / "unsupported"))
    (unsupported / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    (tmp_path / "lora.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    for given, words in (
        (tmp_path / "typo", "typo does not exist; accepted: a folder or .safetensors file"),
        (damaged, r"weight\.bin is missing; convert tiny again"),
        (unsupported, "names the pipeline 'FluxPipeline'"),
        (tmp_path / "lora.safetensors", "cannot be converted: it is "),
    ):
        with pytest.raises(AnemoneError, match=words):
            FirstModel(given, tmp_path / "data").require_usable()
    for given in (checkpoint, model_folder.path, Path("somebody/model")):
        FirstModel(given, tmp_path / "data").require_usable()


@pytest.mark.parametrize(
    ("given", "name", "source"),
    [
        ("somebody/model", "model", "somebody/model@main"),
        ("somebody/model@v2", "model-v2", "somebody/model@v2"),
        ("somebody/model/one.safetensors", "one", "somebody/model/one.safetensors@main"),
        ("/no/such/one.safetensors", "one", "/no/such/one.safetensors"),
    ],
)
def test_what_a_model_is_called_follows_from_where_it_is_from(
    tmp_path: Path, given: str, name: str, source: str
) -> None:
    request = FirstModel(Path(given), tmp_path).request
    assert (request.name, request.source) == (name, source)
