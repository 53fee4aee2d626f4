from __future__ import annotations

import pytest

from server.jobs.estimates import CostSum, Shape, ShapeCost, StepTime, StepTimes, shape_cost
from server.jobs.fair_queue import QueuedJob, QueueKey
from server.jobs.messages import Progressed
from server.jobs.running import Running
from server.pipeline.cost import Cost
from tests.support.generation_requests import request

SHAPE = Shape("fake", 64, 64, 2)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def running(images: int = 2, clock: Clock | None = None) -> Running:
    cost = ShapeCost(SHAPE, 4 * images, images)
    return Running(QueuedJob("job", QueueKey(0.0, 1), "normal", "", cost), clock=clock or Clock())


def test_the_cost_of_a_job_has_the_shape_that_its_time_depends_on() -> None:
    assert shape_cost(request(), Cost(30, 2, 3)) == ShapeCost(SHAPE, 30, 3)
    assert shape_cost(request(), Cost(5, 1, 1)).shape.batch == 1


def test_the_first_measurement_counts_whole_and_later_ones_a_part() -> None:
    step_times = StepTimes({})
    assert step_times.of(SHAPE) is None
    assert step_times.learn(SHAPE, StepTime(1.0, 2.0)) == StepTime(1.0, 2.0)
    later = step_times.learn(SHAPE, StepTime(2.0, 2.0))
    assert 1.0 < later.step < 1.5
    assert later.image == 2.0


def test_seconds_are_steps_and_images_together_and_unknown_where_a_shape_is() -> None:
    step_times, total = StepTimes({SHAPE: StepTime(0.5, 1.0)}), CostSum()
    total.add(ShapeCost(SHAPE, 10, 2))
    assert step_times.seconds(total) == 7.0
    total.add(ShapeCost(Shape("other", 64, 64, 2), 1, 1))
    assert step_times.seconds(total) is None


def test_a_running_job_is_estimated_by_others_until_it_has_made_a_step() -> None:
    job = running()
    assert job.seconds_left(None) is None
    assert job.seconds_left(StepTime(0.5, 1.0)) == 8 * 0.5 + 2 * 1.0
    job.step(Progressed("job", 0, 1, 4, 2.0))
    assert job.seconds_left(None) == pytest.approx(7 * 2.0)
    assert job.seconds_left(StepTime(0.5, 1.0)) == pytest.approx(7 * 2.0 + 2 * 1.0)
    assert job.fraction == pytest.approx(1 / 8)


def test_steps_in_windows_that_are_still_to_come_count_all_their_calls() -> None:
    # Four steps on the whole image, then two in nine windows each.
    job = Running(QueuedJob("job", QueueKey(0.0, 1), "normal", "", ShapeCost(SHAPE, 4 + 2 * 9, 1)))
    for step in range(1, 5):
        job.step(Progressed("job", 0, step, 6, 0.5))
    assert job.seconds_left(None) == pytest.approx(2 * 9 * 0.5)
    job.step(Progressed("job", 0, 5, 6, 4.5, calls=9))
    assert job.seconds_left(None) == pytest.approx(9 * 0.5)
    job.step(Progressed("job", 0, 6, 6, 4.5, calls=9))
    assert job.seconds_left(None) == 0


def test_what_an_image_takes_beyond_its_steps_leaves_loading_out() -> None:
    clock = Clock()
    job = running(2, clock)
    clock.now = 100.0
    job.model_loaded()
    for image in range(2):
        for step in range(1, 5):
            job.step(Progressed("job", image, step, 4, 0.5))
    clock.now = 110.0
    job.model_loaded()
    assert job.measured() == StepTime(0.5, 3.0)


def test_a_step_time_is_that_of_calls_with_all_rows() -> None:
    # Six steps, of which four have half of the rows: four calls' worth.
    job = running(1, Clock())
    for step in range(1, 7):
        job.step(Progressed("job", 0, step, 6, 1.0 if step <= 2 else 0.5))
    measured = job.measured()
    assert measured is not None
    assert measured.step == 1.0


def test_a_job_without_a_step_measures_nothing() -> None:
    assert running().measured() is None
