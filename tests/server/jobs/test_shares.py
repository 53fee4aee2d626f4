"""Places in the queue: how many of them a client may have."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.events import EventLog
from server.jobs.job import PRIORITIES, Submission
from server.jobs.ledger import JobLedger, Limits, NoPlace, ShareFull
from server.jobs.store import JobStore
from server.pipeline.cost import Cost
from tests.support.generation_requests import request


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path)
    yield store
    store.close()


def ledger(store: JobStore, places: int, in_shares: bool = True) -> JobLedger:
    return JobLedger(store, EventLog(), Limits(max_queue=places, in_shares=in_shares))


def places_of(ledger: JobLedger, client: str) -> int:
    """Submit jobs of all priorities until one is refused; return how many were accepted."""
    for count, priority in enumerate(itertools.cycle(PRIORITIES)):
        try:
            ledger.submit(Submission(request(f"{client} {count}"), Cost(1, 2, 1), client=client, priority=priority))
        except NoPlace:
            return count
    raise AssertionError


@pytest.mark.parametrize(
    ("places", "shares"),
    [(100, [50, 25, 12, 3, *[1] * 10, 0]), (4, [2, 1, 1, 0]), (3, [1, 1, 1, 0]), (2, [1, 1, 0]), (1, [1, 0])],
)
def test_a_client_leaves_as_many_places_as_it_has_and_a_newcomer_finds_one(
    store: JobStore, places: int, shares: list[int]
) -> None:
    queue = ledger(store, places)
    assert [places_of(queue, f"client {n}") for n in range(len(shares))] == shares


def test_a_refusal_says_which_limit_it_was_and_when_to_come_back(store: JobStore) -> None:
    queue = ledger(store, 4)
    for client in ("a", "a", "b"):
        queue.submit(Submission(request("a circle"), Cost(1, 2, 1), client=client))
    for client in ("a", "b"):
        with pytest.raises(ShareFull, match="of its 4 places, with 1 free") as share:
            queue.submit(Submission(request("a circle"), Cost(1, 2, 1), client=client))
        assert 1 <= share.value.retry_after <= 120
    queue.submit(Submission(request("a circle"), Cost(1, 2, 1), client="c"))
    with pytest.raises(NoPlace, match=r"the queue is full \(4 jobs of all clients\)") as whole:
        queue.submit(Submission(request("a circle"), Cost(1, 2, 1), client="d"))
    assert (whole.value.code, share.value.code) == ("queue_full", "queue_share_full")


def test_a_place_of_ones_own_that_becomes_free_can_be_used_again(store: JobStore) -> None:
    queue = ledger(store, 4)
    made = [queue.submit(Submission(request("a circle"), Cost(1, 2, 1), client="a")).job_id for _ in range(2)]
    queue.cancel(made[0])
    assert places_of(queue, "a") == 1


def test_without_shares_one_client_may_have_every_place(store: JobStore) -> None:
    assert places_of(ledger(store, 5, in_shares=False), "a") == 5


def test_shares_hold_for_the_jobs_of_an_earlier_run(store: JobStore) -> None:
    places_of(ledger(store, 10), "a")
    restarted = ledger(store, 10)
    restarted.recover()
    assert (places_of(restarted, "a"), places_of(restarted, "b")) == (0, 2)
