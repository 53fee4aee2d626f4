from __future__ import annotations

import pytest

from server.jobs.line import Place
from server.jobs.messages import Progressed
from server.jobs.order import Waiting
from server.jobs.pace import Pace, Paces, Shape, Tally, Work, work_of
from server.jobs.running import Running
from server.pipeline.cost import Cost
from tests.support.asking import request

SHAPE = Shape("fake", 64, 64, 2)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def running(pictures: int = 2, clock: Clock | None = None) -> Running:
    work = Work(SHAPE, 4 * pictures, pictures)
    return Running(Waiting("job", Place(0.0, 1), "normal", "", work), clock or Clock())


def test_work_is_what_the_request_makes_the_worker_do() -> None:
    assert work_of(request(), Cost(30, 2, 3)) == Work(SHAPE, 30, 3)
    assert work_of(request(), Cost(5, 1, 1)).shape.batch == 1


def test_the_first_measurement_counts_whole_and_later_ones_a_part() -> None:
    paces = Paces({})
    assert paces.of(SHAPE) is None
    assert paces.learn(SHAPE, Pace(1.0, 2.0)) == Pace(1.0, 2.0)
    later = paces.learn(SHAPE, Pace(2.0, 2.0))
    assert 1.0 < later.step < 1.5
    assert later.picture == 2.0


def test_seconds_are_steps_and_pictures_together_and_unknown_where_a_shape_is() -> None:
    paces, tally = Paces({SHAPE: Pace(0.5, 1.0)}), Tally()
    tally.add(Work(SHAPE, 10, 2))
    assert paces.seconds(tally) == 7.0
    tally.add(Work(Shape("other", 64, 64, 2), 1, 1))
    assert paces.seconds(tally) is None


def test_a_running_job_is_estimated_by_others_until_it_has_made_a_step() -> None:
    job = running()
    assert job.seconds_left(None) is None
    assert job.seconds_left(Pace(0.5, 1.0)) == 8 * 0.5 + 2 * 1.0
    job.step(Progressed("job", 0, 1, 4, 2.0))
    assert job.seconds_left(None) == pytest.approx(7 * 2.0)
    assert job.seconds_left(Pace(0.5, 1.0)) == pytest.approx(7 * 2.0 + 2 * 1.0)
    assert job.fraction == pytest.approx(1 / 8)


def test_what_a_picture_takes_beyond_its_steps_leaves_loading_out() -> None:
    clock = Clock()
    job = running(2, clock)
    clock.now = 100.0
    job.loaded()
    for step in range(1, 5):
        job.step(Progressed("job", 0, step, 4, 0.5))
    clock.now = 108.0
    job.loaded()
    assert job.measured() == Pace(0.5, 3.0)


def test_a_job_without_a_step_measures_nothing() -> None:
    assert running().measured() is None
