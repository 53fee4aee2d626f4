from __future__ import annotations

import asyncio
import threading
import time

from server.events import KEPT, Event, EventLog, Subscription


def run(coroutine: object) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 30))  # type: ignore[arg-type]


async def rest(events: Subscription) -> list[Event]:
    return [event async for event in events]


def test_readers_get_what_any_thread_publishes_until_the_last() -> None:
    async def main() -> None:
        log = EventLog()
        readers = [log.subscribe("job") for _ in range(2)]

        def publish() -> None:
            for i in range(3):
                log.publish("job", "progress", {"i": i})
            log.publish("other", "state", {})
            log.publish("job", "state", {}, last=True)

        thread = threading.Thread(target=publish)
        thread.start()
        for reader in readers:
            events = await rest(reader)
            assert [e.data for e in events] == [{"i": 0}, {"i": 1}, {"i": 2}, {}]
            assert [e.id for e in events] == sorted({e.id for e in events})
            assert [e.last for e in events] == [False, False, False, True]
        thread.join()

    run(main())


def test_a_reader_that_was_cut_off_gets_what_it_missed_and_no_more() -> None:
    async def main() -> None:
        log = EventLog()
        first = log.subscribe("job")
        for i in range(4):
            log.publish("job", "progress", {"i": i})
        seen = [await anext(first) for _ in range(2)]
        first.close()
        again = log.subscribe("job", seen[-1].id)
        assert again.is_complete
        log.publish("job", "state", {"i": 4}, last=True)
        assert [e.data["i"] for e in await rest(again)] == [2, 3, 4]

    run(main())


def test_a_reader_learns_when_too_much_has_happened() -> None:
    async def main() -> None:
        log = EventLog()
        first = log.subscribe("job")
        log.publish("job", "progress", {})
        seen = await anext(first)
        for _ in range(KEPT + 1):
            log.publish("job", "progress", {})
        again = log.subscribe("job", seen.id)
        assert not again.is_complete
        log.publish("job", "state", {}, last=True)
        assert [e.kind for e in await rest(again)] == ["state"]

    run(main())


def test_ids_of_an_earlier_server_or_of_nowhere_are_not_taken_for_complete() -> None:
    async def main() -> None:
        old = EventLog()
        old.publish("job", "progress", {})
        seen = old.subscribe("job").start
        time.sleep(0.01)  # a server takes longer than that to come back
        new = EventLog()
        new.publish("job", "progress", {})
        for after in (None, 0, -1, seen, 2**70):
            assert not new.subscribe("job", after).is_complete

    run(main())


def test_a_slow_reader_loses_the_oldest_and_never_the_last() -> None:
    async def main() -> None:
        log = EventLog()
        reader = log.subscribe("job")
        for i in range(3 * KEPT):
            log.publish("job", "progress", {"i": i})
        log.publish("job", "state", {}, last=True)
        events = await rest(reader)
        assert len(events) == KEPT
        assert events[-1].last

    run(main())


def test_closing_ends_every_reader_and_nothing_is_kept_of_what_is_over() -> None:
    async def main() -> None:
        log = EventLog()
        reader, other = log.subscribe("job"), log.subscribe("nothing")
        assert sorted(log.watched()) == ["job", "nothing"]
        other.close()
        log.publish("done", "state", {}, last=True)
        assert log.watched() == ["job"]
        log.close()
        assert await rest(reader) == []
        assert await rest(log.subscribe("job")) == []

    run(main())
