from __future__ import annotations

import errno
import math

from server.outage import Outage, Pauses

FULL = OSError(errno.ENOSPC, "No space left on device", "/data/images")


def test_pauses_double_up_to_the_longest() -> None:
    assert [Pauses().after(attempts) for attempts in (1, 2, 3, 6, 1000)] == [1, 2, 4, 30, 30]


def test_work_is_due_after_its_pause_and_always_without_an_outage() -> None:
    now = 100.0
    outage = Outage(Pauses(), clock=lambda: now)
    assert (outage.is_due, outage.seconds_left) == (True, math.inf)
    outage.failed(FULL)
    assert (outage.is_due, outage.seconds_left) == (False, 1.0)
    now += 1
    assert outage.is_due
    outage.failed(FULL)
    outage.hurry()
    assert outage.is_due


def test_only_another_cause_is_news_and_an_outage_gets_long() -> None:
    outage = Outage()
    assert [outage.failed(FULL), outage.failed(FULL)] == [True, False]
    assert not outage.is_long
    assert outage.failed(RuntimeError("a bug"))
    assert outage.cause is not None
    assert outage.cause.code == "internal"
    assert outage.is_long
    assert outage.end()
    assert (outage.cause, outage.is_long, outage.end()) == (None, False, False)
