from __future__ import annotations

import errno
import logging
import math

import pytest

from server.outage import Outage, Pauses

LOG = logging.getLogger("anemone.test")
FULL = OSError(errno.ENOSPC, "No space left on device", "/data/images")


def test_pauses_double_up_to_the_longest() -> None:
    assert [Pauses().after(attempts) for attempts in (1, 2, 3, 6, 1000)] == [1, 2, 4, 30, 30]


def test_work_is_due_after_its_pause_and_always_without_an_outage() -> None:
    now = 100.0
    outage = Outage("the queue", LOG, Pauses(), clock=lambda: now)
    assert (outage.is_due, outage.seconds_left) == (True, math.inf)
    outage.failed(FULL)
    assert (outage.is_due, outage.seconds_left) == (False, 1.0)
    now += 1
    assert outage.is_due
    outage.failed(FULL)
    outage.hurry()
    assert outage.is_due


def test_only_another_cause_is_news_and_an_outage_gets_long() -> None:
    outage = Outage("the queue", LOG)
    assert [outage.failed(FULL), outage.failed(FULL)] == [True, False]
    assert not outage.is_long
    assert outage.failed(RuntimeError("a bug"))
    assert outage.cause is not None
    assert outage.cause.code == "internal"
    assert outage.is_long
    assert outage.end()
    assert (outage.cause, outage.is_long, outage.end()) == (None, False, False)


def test_the_log_says_what_an_outage_stops_once_for_each_cause(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("conversions", LOG)
    for error in (FULL, FULL, RuntimeError("a bug")):
        outage.failed(error)
    first, bug, second = caplog.messages
    assert first.startswith("an outage stops conversions for now: the disk is full")
    assert bug == "an internal error stops conversions for now"
    assert second.startswith("an outage stops conversions for now: an internal error stops conversions (RuntimeError)")
