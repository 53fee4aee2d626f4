from __future__ import annotations

import random

import pytest

from server.jobs.estimates import CostSum, Shape, ShapeCost
from server.jobs.fair_queue import QueueKey, SortedJobs

SHAPES = [Shape("a", 64, 64, 2), Shape("a", 96, 64, 1)]


def summed(costs: list[ShapeCost]) -> dict[Shape, tuple[int, int]]:
    return {
        shape: (sum(c.calls for c in costs if c.shape == shape), sum(c.images for c in costs if c.shape == shape))
        for shape in {c.shape for c in costs}
    }


def test_it_is_a_sorted_list_that_knows_the_cost_before_any_key() -> None:
    chance, jobs, known = random.Random(3), SortedJobs(), {}
    for number in range(3000):
        if known and chance.random() < 0.4:
            gone = chance.choice(list(known))
            jobs.remove(gone)
            del known[gone]
        else:
            key = QueueKey(float(chance.randrange(200)), number)
            known[key] = ShapeCost(chance.choice(SHAPES), chance.randrange(1, 50), chance.randrange(1, 4))
            jobs.add(key, known[key])
        if number % 97 == 0:
            assert list(jobs) == sorted(known)
            assert len(jobs) == len(known)
            assert jobs.first() == (min(known) if known else None)
            asked = QueueKey(float(chance.randrange(220)), chance.randrange(number + 1))
            total = CostSum()
            before = [known[k] for k in known if k < asked]
            assert jobs.before(asked, total) == len(before)
            assert total.by_shape == summed(before)
    for key in sorted(known):
        jobs.remove(key)
    assert jobs.first() is None


def test_nobody_who_does_not_wait_can_be_removed() -> None:
    jobs = SortedJobs()
    jobs.add(QueueKey(1.0, 1), ShapeCost(SHAPES[0], 3, 1))
    with pytest.raises(KeyError):
        jobs.remove(QueueKey(1.0, 2))
    assert list(jobs) == [QueueKey(1.0, 1)]
