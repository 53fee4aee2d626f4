from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from server.events import EventLog
from server.jobs.readiness import Readiness
from server.models.conversions import Conversions, LaunchConversion, launch_conversion
from server.models.first import FirstModel
from tests.support import fake_converter
from tests.support.fake_hub import FakeHub, Repository

PATIENCE = 300  # a conversion verifies itself with PyTorch and diffusers, which a busy machine takes minutes to import


@dataclass
class Queue:
    """Notes what the queue is told."""

    told: list[Readiness] = field(default_factory=list)
    begun: int = 0

    def begin(self) -> None:
        self.begun += 1

    def set_readiness(self, readiness: Readiness) -> None:
        self.told.append(readiness)

    @property
    def states(self) -> list[str]:
        return [now.state for now in self.told]


@contextmanager
def started(given: Path, data_dir: Path, launch: LaunchConversion | None = None) -> Iterator[tuple[FirstModel, Queue]]:
    first, queue = FirstModel(given, data_dir), Queue()
    conversions = Conversions(data_dir, first.models, EventLog(), launch or launch_conversion(data_dir))
    first.start(conversions, queue)
    conversions.start()
    try:
        yield first, queue
    finally:
        conversions.stop()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub that conversion processes ask."""
    running = FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield running
    running.close()


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE)
def test_an_address_on_the_hub_is_downloaded_and_converted_before_the_worker_begins(
    checkpoint: Path, hub: FakeHub, tmp_path: Path
) -> None:
    files = {p.relative_to(checkpoint).as_posix(): p.read_bytes() for p in checkpoint.rglob("*") if p.is_file()}
    hub.repositories["somebody/tiny"] = Repository(files)
    given, data = Path("somebody/tiny"), tmp_path / "data"
    with started(given, data) as (first, queue):
        assert queue.begun == 0
        until(lambda: queue.begun or "failed" in queue.states)
        assert queue.told[-1].state == "starting", queue.told[-1].message
    assert {"downloading", "converting", "verifying"} <= set(queue.states)
    assert first.folder == data / "models" / "tiny"
    assert first.models.manifest("tiny").source.path_or_id == "somebody/tiny"
    asked = len(hub.requests)
    with started(given, data) as (_, queue):
        assert queue.begun == 1
    assert len(hub.requests) == asked


def test_a_source_that_is_not_there_says_so(hub: FakeHub, tmp_path: Path) -> None:
    with started(Path("somebody/nothing"), tmp_path / "data") as (_, queue):
        until(lambda: "failed" in queue.states)
    assert "no repository of that name" in str(queue.told[-1].message)
    assert queue.begun == 0


def test_a_converted_folder_is_used_where_it_is(model_folder, tmp_path: Path) -> None:
    with started(model_folder.path, tmp_path) as (first, queue):
        assert queue.begun == 1
        assert first.folder == first.models.folder(first.models.default or "") == model_folder.path


def test_a_checkpoint_is_converted_once_and_again_when_it_has_changed(checkpoint: Path, tmp_path: Path) -> None:
    launch = fake_converter.launcher(tmp_path)
    with started(checkpoint, tmp_path, launch) as (first, queue):
        until(lambda: queue.begun)
        assert not first.is_ready  # what the fake has made bears no checkpoint's stamp
        assert first.models.default == checkpoint.name
    with started(checkpoint, tmp_path, launch) as (_, queue):
        until(lambda: queue.begun)
    assert fake_converter.begun(tmp_path) == [str(checkpoint)] * 2


def test_progress_is_told_as_the_queue_tells_it(tmp_path: Path) -> None:
    with started(tmp_path / "steady", tmp_path, fake_converter.launcher(tmp_path)) as (_, queue):
        until(lambda: queue.begun)
    assert queue.told[0] == Readiness("downloading", "unet.safetensors", 50, 100)
    assert Readiness("converting", "unet", 3, 100) in queue.told


def test_a_cancelled_conversion_leaves_a_server_that_says_so(tmp_path: Path) -> None:
    first, queue = FirstModel(tmp_path / "slow", tmp_path), Queue()
    conversions = Conversions(tmp_path, first.models, EventLog(), fake_converter.launcher(tmp_path))
    first.start(conversions, queue)
    conversions.start()
    until(lambda: queue.states)
    conversions.cancel(first.request.id)
    until(lambda: "failed" in queue.states)
    conversions.stop()
    assert "cancelled" in str(queue.told[-1].message)
    assert json.loads((tmp_path / "conversions" / f"{first.request.id}.json").read_text())["status"] == "cancelled"


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
