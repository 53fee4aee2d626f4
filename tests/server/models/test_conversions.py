from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from converter.options import ConvertOptions
from server.events import EventLog
from server.models.conversion import Conversion, ConversionFiles
from server.models.conversion_request import ConversionRequest
from server.models.conversions import MOST_OPEN, Conversions, NameTaken, TooManyConversions
from server.models.installed import InstalledModels
from server.outage import Pauses
from server.supervisor import ChildProcess
from tests.support import fake_converter


@contextmanager
def conversions(data_dir: Path, events: EventLog | None = None) -> Iterator[Conversions]:
    launch, pauses = fake_converter.launcher(data_dir), Pauses(0.02, 0.05)
    queue = Conversions(data_dir, InstalledModels(data_dir), events or EventLog(), launch, pauses)
    queue.start()
    yield queue
    queue.stop()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def over(all_: Conversions, request: ConversionRequest) -> Conversion:
    until(lambda: not _conversion(all_, request).open)
    return _conversion(all_, request)


def under_way(all_: Conversions, request: ConversionRequest) -> None:
    until(lambda: (p := _conversion(all_, request).progress) is not None and p.stage == "converting")


def _conversion(all_: Conversions, request: ConversionRequest) -> Conversion:
    conversion = all_.get(request.id)
    assert conversion is not None
    return conversion


def request(source: str, name: str = "m", **options: object) -> ConversionRequest:
    return ConversionRequest(source, name, ConvertOptions(**options))  # type: ignore[arg-type]


def test_a_conversion_ends_with_a_model_and_tells_how_it_gets_there(tmp_path: Path) -> None:
    async def watched() -> list[tuple[str, object]]:
        events = EventLog()
        with conversions(tmp_path, events) as all_:
            reading = events.subscribe(request("plain").id)
            all_.submit(request("plain"))
            return [(event.kind, event.data.get("status") or event.data.get("stage")) async for event in reading]

    events = asyncio.run(watched())
    assert events[0] == ("state", "queued")
    assert events[1] == ("state", "running")
    assert ("progress", "downloading") in events
    assert ("progress", "converting") in events
    assert events[-1] == ("state", "succeeded")
    assert InstalledModels(tmp_path).names() == ("m",)


def test_the_same_is_converted_once_whatever_it_is_called_and_however_often_it_is_asked_for(tmp_path: Path) -> None:
    with conversions(tmp_path) as all_:
        first = all_.submit(request("plain"))
        assert all_.submit(request("plain", "another")).id == first.id
        over(all_, request("plain"))
        assert all_.submit(request("plain")).status == "succeeded"
    with conversions(tmp_path) as all_:
        assert all_.submit(request("plain")).status == "succeeded"
    assert fake_converter.begun(tmp_path) == ["plain"]


def test_a_deleted_model_is_converted_again(tmp_path: Path) -> None:
    with conversions(tmp_path) as all_:
        all_.submit(request("plain"))
        over(all_, request("plain"))
        InstalledModels(tmp_path).delete("m")
        all_.submit(request("plain"))
        over(all_, request("plain"))
    assert fake_converter.begun(tmp_path) == ["plain", "plain"]


def test_other_options_are_another_conversion_with_a_name_of_its_own(tmp_path: Path) -> None:
    with conversions(tmp_path) as all_:
        all_.submit(request("plain"))
        with pytest.raises(NameTaken, match="another name"):
            all_.submit(request("plain", tokens=(154,)))
        over(all_, request("plain"))
        with pytest.raises(NameTaken, match="another name"):
            all_.submit(request("plain", tokens=(154,)))
        all_.submit(request("plain", "long", tokens=(154,)))
        over(all_, request("plain", "long", tokens=(154,)))
    assert InstalledModels(tmp_path).names() == ("long", "m")


def test_they_are_done_one_at_a_time_in_their_order(tmp_path: Path) -> None:
    with conversions(tmp_path) as all_:
        for name in ("a", "b", "c"):
            all_.submit(request(name, name))
        assert sum(c.status == "running" for c in all_.all()) <= 1
        over(all_, request("c", "c"))
    assert fake_converter.begun(tmp_path) == ["a", "b", "c"]


def test_the_servers_first_model_goes_before_conversions_that_wait(tmp_path: Path) -> None:
    queue = Conversions(tmp_path, InstalledModels(tmp_path), EventLog(), fake_converter.launcher(tmp_path))
    for name in ("a", "b"):
        queue.submit(request(name, name))
    queue.submit(request("first", "first"), replacing=True)
    queue.start()
    over(queue, request("b", "b"))
    queue.stop()
    assert fake_converter.begun(tmp_path) == ["first", "a", "b"]


def test_what_cannot_be_converted_says_why_and_may_be_asked_for_again(tmp_path: Path) -> None:
    with conversions(tmp_path) as all_:
        all_.submit(request("bad"))
        ended = over(all_, request("bad"))
        assert ended.error == ("not_converted", "bad is of an unknown architecture")
        assert all_.submit(request("bad")).status == "queued"
        over(all_, request("bad"))
    assert len(fake_converter.begun(tmp_path)) == 2


def test_a_process_that_dies_is_started_once_more(tmp_path: Path) -> None:
    with conversions(tmp_path) as all_:
        all_.submit(request("die once"))
        ended = over(all_, request("die once"))
        assert (ended.status, ended.attempts) == ("succeeded", 2)
        all_.submit(request("die", "other"))
        ended = over(all_, request("die", "other"))
    assert (ended.status, ended.attempts) == ("failed", 2)
    assert ended.error is not None
    assert "died 2 times (last exit status -9)" in ended.error[1]


def test_a_running_conversion_is_cancelled_and_the_next_one_goes(tmp_path: Path) -> None:
    with conversions(tmp_path) as all_:
        all_.submit(request("slow"))
        all_.submit(request("after", "after"))
        under_way(all_, request("slow"))
        all_.cancel(request("slow").id)
        assert over(all_, request("slow")).status == "cancelled"
        assert over(all_, request("after", "after")).status == "succeeded"
        assert all_.cancel(request("after", "after").id) == _conversion(all_, request("after", "after"))
        assert all_.cancel("nothing") is None
    assert InstalledModels(tmp_path).names() == ("after",)


def test_a_waiting_conversion_is_cancelled_at_once(tmp_path: Path) -> None:
    with conversions(tmp_path) as all_:
        all_.submit(request("slow"))
        all_.submit(request("after", "after"))
        cancelled = all_.cancel(request("after", "after").id)
        assert cancelled is not None
        assert cancelled.status == "cancelled"
    assert "after" not in fake_converter.begun(tmp_path)


def test_stopping_is_no_attempt_and_the_next_server_goes_on(tmp_path: Path) -> None:
    with conversions(tmp_path) as all_:
        all_.submit(request("slow"))
        under_way(all_, request("slow"))
    left = ConversionFiles(tmp_path).read()[request("slow").id]
    assert (left.status, left.attempts) == ("queued", 0)
    with conversions(tmp_path) as all_:
        under_way(all_, request("slow"))
        all_.cancel(request("slow").id)
        over(all_, request("slow"))


def test_a_conversion_that_a_killed_server_left_is_taken_up_again(tmp_path: Path) -> None:
    left = Conversion(request("plain"), "running", time.time(), time.time(), attempts=2)
    ConversionFiles(tmp_path).write(left)
    with conversions(tmp_path) as all_:
        ended = over(all_, request("plain"))
    assert (ended.status, ended.attempts) == ("succeeded", 2)


def test_a_file_of_another_version_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = ConversionFiles(tmp_path)
    files.write(Conversion(request("plain"), "succeeded", 1.0))
    (tmp_path / "conversions" / "other.json").write_text('{"request": {}, "error": null}')
    assert [c.request.source for c in files.read().values()] == ["plain"]
    assert "other.json" in caplog.text


def test_what_cannot_be_read_as_a_conversion_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "conversions" / "folder.json").mkdir(parents=True)
    (tmp_path / "conversions" / "link.json").symlink_to("nowhere")
    (tmp_path / "conversions" / "deep.json").write_text("[" * 100_000)
    (tmp_path / "conversions" / "latin.json").write_bytes(b"\xff{}")
    assert ConversionFiles(tmp_path).read() == {}
    assert all(f"{name}.json" in caplog.text for name in ("folder", "link", "deep", "latin"))


def test_everything_about_a_request_survives_its_file(tmp_path: Path) -> None:
    full = request(
        "a/b@main",
        sizes=((64, 64), (96, 64)),
        batches=(1, 2),
        tokens=(77, 154),
        controlnets=("c/d@main",),
        vae="e/f@main",
    )
    kept = Conversion(full, "failed", 1.0, 2.0, 3.0, 2, ("code", "message"))
    files = ConversionFiles(tmp_path)
    files.write(kept)
    assert files.read() == {full.id: kept}
    assert full.id != replace(full, options=replace(full.options, vae=None)).id


def test_no_more_may_wait_than_a_few(tmp_path: Path) -> None:
    with conversions(tmp_path) as all_:
        all_.submit(request("slow"))
        for i in range(MOST_OPEN - 1):
            all_.submit(request(f"w{i}", f"w{i}"))
        with pytest.raises(TooManyConversions):
            all_.submit(request("one more", "one-more"))
        assert all_.submit(request("the first model"), replacing=True).status == "queued"


def failing(number: int) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number), "/data/conversions")

    return fail


def stored(data_dir: Path, request: ConversionRequest) -> str:
    return ConversionFiles(data_dir).read()[request.id].status


def test_a_request_that_cannot_be_stored_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with conversions(tmp_path) as all_:
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(ConversionFiles, "write", failing(errno.ENOSPC))
            with pytest.raises(OSError, match="No space left"):
                all_.submit(request("plain"))
        assert all_.all() == []
        all_.submit(request("plain"))
        assert over(all_, request("plain")).status == "succeeded"


def test_a_state_that_cannot_be_written_is_written_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with conversions(tmp_path) as all_:
        all_.submit(request("steady"))
        under_way(all_, request("steady"))
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(ConversionFiles, "write", failing(errno.ENOSPC))
            assert over(all_, request("steady")).status == "succeeded"
            assert stored(tmp_path, request("steady")) == "running"
        until(lambda: stored(tmp_path, request("steady")) == "succeeded")
        all_.submit(request("plain", "other"))
        assert over(all_, request("plain", "other")).status == "succeeded"


def test_a_waiting_conversion_can_be_cancelled_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with conversions(tmp_path) as all_:
        all_.submit(request("slow"))
        all_.submit(request("plain", "other"))
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(ConversionFiles, "write", failing(errno.ENOSPC))
            for cancelled in (request("plain", "other"), request("slow")):
                all_.cancel(cancelled.id)
                assert over(all_, cancelled).status == "cancelled"
        until(lambda: stored(tmp_path, request("plain", "other")) == "cancelled")


def test_the_first_model_is_converted_even_if_its_request_cannot_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConversionFiles, "write", failing(errno.ENOSPC))
    with conversions(tmp_path) as all_:
        all_.submit(request("plain"), replacing=True)
        assert over(all_, request("plain")).status == "succeeded"


def test_a_process_that_cannot_be_started_is_started_later_and_an_error_of_ours_fails_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> NoReturn:
        raise RuntimeError("a bug")

    with conversions(tmp_path) as all_:
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(ChildProcess, "__init__", failing(errno.EMFILE))
            all_.submit(request("plain"))
            time.sleep(0.1)
            assert _conversion(all_, request("plain")).status == "queued"
        assert (over(all_, request("plain")).status, _conversion(all_, request("plain")).attempts) == ("succeeded", 1)
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(ChildProcess, "__init__", bug)
            all_.submit(request("plain", "other", attention="original"))
            ended = over(all_, request("plain", "other", attention="original"))
        assert (ended.status, ended.error and ended.error[0]) == ("failed", "internal")
