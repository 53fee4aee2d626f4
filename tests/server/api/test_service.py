"""The service without HTTP: in an event loop, with plain values."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

import server.api.service
from server.api.refusal import Refusal
from server.api.service import Service
from server.api.submission import BoundModel, BoundRequest, SubmitOptions, fingerprint_of
from server.jobs.job import Job
from server.jobs.ledger import Accepted, Limits
from server.jobs.queue import JobQueue
from server.jobs.store import JobStore
from server.models.installed import InstalledModels
from server.models.loras import Addons
from server.models.upscalers import InstalledUpscalers
from server.pipeline.canvas.attachments import Kept
from server.pipeline.request import RequestError
from server.security.rate import LOOPBACK
from tests.support import fake_pipeline
from tests.support.generation_requests import request
from tests.support.image_files import encoded
from tests.support.live_server import until
from tests.support.processes import copied

CLIENT = SubmitOptions("a client")


@contextmanager
def opened(data_dir: Path, limits: Limits | None = None, *, begin: bool = True) -> Iterator[tuple[Service, JobQueue]]:
    store = JobStore(data_dir)
    worker, models = (
        copied(fake_pipeline.start, data_dir, name="fake-worker"),
        InstalledModels(data_dir, default="fake"),
    )
    queue = JobQueue(store, [worker], models, lambda readiness: None, limits)
    queue.start("fake")
    try:
        if begin:
            folder = data_dir / "models" / "fake"
            folder.mkdir(parents=True)
            fake_pipeline.MANIFEST.write(folder)
            queue.on_installed("fake")
            until(lambda: queue.readiness.state == "ready")
        yield Service(queue, store, models, InstalledUpscalers(data_dir), Addons(data_dir, bundled=data_dir)), queue
    finally:
        queue.stop()
        store.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with opened(tmp_path_factory.mktemp("data")) as (opened_service, _):
        yield opened_service


async def bound(service: Service) -> BoundModel:
    model = await service.bind(None)
    assert isinstance(model, BoundModel)
    return model


async def submitted(service: Service, prompt: str, options: SubmitOptions = CLIENT) -> Accepted | Refusal:
    return await service.submit(BoundRequest(await bound(service), request(prompt)), options)


def test_a_request_is_bound_submitted_and_awaited(service: Service) -> None:
    async def generate() -> bytes:
        assert (await bound(service)).name == "fake"
        accepted = await submitted(service, "a circle")
        assert isinstance(accepted, Accepted)
        assert not accepted.is_repeat
        job = await service.result(accepted.job_id)
        assert isinstance(job, Job)
        assert service.job(job.id) == job
        image = await service.image(job, job.images[0])
        assert isinstance(image, bytes)
        missing = service.stored_image(job, 1)
        assert isinstance(missing, Refusal)
        assert (missing.reason, missing.code) == ("no_such_image", "no_such_image")
        return image

    assert asyncio.run(generate()).startswith(b"\x89PNG")


def test_a_model_that_is_not_installed_is_refused_with_what_is(service: Service) -> None:
    refusal = asyncio.run(service.bind("nothing"))
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.field, refusal.value) == ("unknown_model", "model", "nothing")
    assert "fake" in (refusal.accepted or "")


def test_a_failed_job_and_a_cancelled_one_are_refusals(service: Service) -> None:
    async def outcome(prompt: str, *, cancel: bool = False) -> Refusal:
        accepted = await submitted(service, prompt)
        assert isinstance(accepted, Accepted)
        if cancel:
            service.cancel(accepted.job_id)
        refusal = await service.result(accepted.job_id)
        assert isinstance(refusal, Refusal)
        return refusal

    failed = asyncio.run(outcome("fail"))
    assert failed.reason == "failed"
    assert failed.code != "failed"
    assert asyncio.run(outcome("slow", cancel=True)).reason == "cancelled"


def test_a_repeated_key_is_the_same_job_and_a_reused_one_refused(service: Service) -> None:
    def options(sent: str) -> SubmitOptions:
        return SubmitOptions("b", key="k", fingerprint=fingerprint_of("/x", {"prompt": sent}, {}))

    async def send() -> list[Accepted | Refusal]:
        return [await submitted(service, text, options(text)) for text in ("one", "one", "two")]

    first, again, other = asyncio.run(send())
    assert isinstance(first, Accepted)
    assert again == Accepted(first.job_id, True)
    assert isinstance(other, Refusal)
    assert (other.reason, other.field, other.value) == ("key_reused", "Idempotency-Key", "k")


@pytest.mark.parametrize("key", ["", "x" * 201, "ä", "a\nb"])
def test_a_key_that_is_not_visible_ascii_is_an_error(key: str) -> None:
    with pytest.raises(RequestError, match="1 to 200 visible ASCII characters"):
        SubmitOptions("a", key=key)


def test_a_fingerprint_tells_fields_and_attachments_apart() -> None:
    prints = {
        fingerprint_of(path, fields, attachments)
        for path in ("/a", "/b")
        for fields in ({"n": 1}, {"n": 2})
        for attachments in ({}, {"image": b"1"}, {"mask": b"1"}, {"image": b"1", "mask": b"1"}, {"image": b"2"})
    }
    assert len(prints) == 20
    assert fingerprint_of("/a", {"x": 1, "y": 2}, {}) == fingerprint_of("/a", {"y": 2, "x": 1}, {})


def test_a_field_added_later_leaves_fingerprints_as_they_are_where_it_is_not_sent() -> None:
    now, later = {"prompt": "a", "seed": None}, {"prompt": "a", "seed": None, "clip_skip": None}
    assert fingerprint_of("/a", later, {}) == fingerprint_of("/a", now, {})
    assert fingerprint_of("/a", later | {"clip_skip": 2}, {}) != fingerprint_of("/a", now, {})
    in_list = {"controls": [{"image": "control_0_image", "weight": 1.0}]}
    later = {"controls": ({"image": "control_0_image", "weight": 1.0, "mode": None},)}
    assert fingerprint_of("/a", later, {}) == fingerprint_of("/a", in_list, {})


def test_a_full_queue_says_when_to_retry(tmp_path: Path) -> None:
    async def fill(service: Service) -> list[Accepted | Refusal]:
        model = BoundModel("fake", fake_pipeline.MANIFEST)
        return [await service.submit(BoundRequest(model, request("a circle")), CLIENT) for _ in range(2)]

    with opened(tmp_path, Limits(max_queue=1), begin=False) as (service, _):
        first, full = asyncio.run(fill(service))
    assert isinstance(first, Accepted)
    assert isinstance(full, Refusal)
    assert full.reason == "queue_full"
    assert full.retry_after is not None
    assert full.retry_after > 0


def test_high_priority_is_for_this_machine(service: Service) -> None:
    async def both() -> list[Accepted | Refusal]:
        return [
            await submitted(service, "a circle", SubmitOptions(client, "high"))
            for client in (LOOPBACK, "192.168.1.20", "2001:db8::/64", "unknown")
        ]

    here, *elsewhere = asyncio.run(both())
    assert isinstance(here, Accepted)
    for refusal in elsewhere:
        assert isinstance(refusal, Refusal)
        assert (refusal.code, refusal.field, refusal.accepted) == ("priority_not_allowed", "priority", "normal, low")


def test_a_server_that_stops_keeps_the_job_and_says_so(tmp_path: Path) -> None:
    async def wait(service: Service, queue: JobQueue) -> Refusal:
        accepted = await submitted(service, "slow")
        assert isinstance(accepted, Accepted)
        result = asyncio.create_task(service.result(accepted.job_id))
        await asyncio.to_thread(until, lambda: queue.jobs(1, statuses=("running",)))
        await asyncio.to_thread(queue.events.close)
        refusal = await result
        assert isinstance(refusal, Refusal)
        return refusal

    with opened(tmp_path) as (stopping, queue):
        refusal = asyncio.run(wait(stopping, queue))
    assert refusal.reason == "not_now"
    assert "the server keeps job" in refusal.message


def test_without_its_first_model_a_server_is_not_ready(tmp_path: Path) -> None:
    with opened(tmp_path, begin=False) as (service, _):
        refusal = asyncio.run(service.bind(None))
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.retry_after) == ("not_ready", 5)


def test_what_was_never_there_is_refused(service: Service) -> None:
    for refusal in (service.job("nothing"), service.cancel("nothing"), asyncio.run(service.result("nothing"))):
        assert isinstance(refusal, Refusal)
        assert refusal.reason == "no_such_job"


def test_large_images_are_decoded_one_at_a_time_and_the_others_wait(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, most, now = threading.Lock(), [0], [0]

    def decode(*_: object) -> Kept:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        return Kept(b"decoded")

    monkeypatch.setattr(server.api.service, "kept", decode)
    large = SubmitOptions("a client", attachments={"image": encoded(Image.new("L", (2500, 2000)))})

    async def together() -> list[Accepted | Refusal]:
        model = await bound(service)
        return await asyncio.gather(*(service.submit(BoundRequest(model, request("a")), large) for _ in range(6)))

    assert all(isinstance(accepted, Accepted) for accepted in asyncio.run(together()))
    assert most == [1]
