from __future__ import annotations

import random

import pytest

from server.jobs.line import Line, Place
from server.jobs.pace import Shape, Tally, Work

SHAPES = [Shape("a", 64, 64, 2), Shape("a", 96, 64, 1)]


def summed(works: list[Work]) -> dict[Shape, tuple[int, int]]:
    return {
        shape: (sum(w.steps for w in works if w.shape == shape), sum(w.pictures for w in works if w.shape == shape))
        for shape in {w.shape for w in works}
    }


def test_it_is_a_sorted_list_that_knows_the_work_before_any_place() -> None:
    chance, line, known = random.Random(3), Line(), {}
    for number in range(3000):
        if known and chance.random() < 0.4:
            gone = chance.choice(list(known))
            line.remove(gone)
            del known[gone]
        else:
            place = Place(float(chance.randrange(200)), number)
            known[place] = Work(chance.choice(SHAPES), chance.randrange(1, 50), chance.randrange(1, 4))
            line.add(place, known[place])
        if number % 97 == 0:
            assert list(line) == sorted(known)
            assert len(line) == len(known)
            assert line.first() == (min(known) if known else None)
            asked = Place(float(chance.randrange(220)), chance.randrange(number + 1))
            tally = Tally()
            before = [known[p] for p in known if p < asked]
            assert line.before(asked, tally) == len(before)
            assert tally.work == summed(before)
    for place in sorted(known):
        line.remove(place)
    assert line.first() is None


def test_nobody_who_does_not_wait_can_be_removed() -> None:
    line = Line()
    line.add(Place(1.0, 1), Work(SHAPES[0], 3, 1))
    with pytest.raises(KeyError):
        line.remove(Place(1.0, 2))
    assert list(line) == [Place(1.0, 1)]
