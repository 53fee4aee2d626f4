from __future__ import annotations

import itertools

from server.jobs.estimates import Shape, ShapeCost
from server.jobs.fair_queue import MOST_OVERTAKING, OVERTAKING_SECONDS, FairQueue, QueuedJob, QueueKey
from server.jobs.job import Priority

_NUMBERS = itertools.count(1)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def come(
    queue: FairQueue, job_id: str, client: str = "a", priority: Priority = "normal", model: str = "m", images: int = 1
) -> None:
    key = QueueKey(queue.start_tag(client, priority), next(_NUMBERS))
    queue.add(QueuedJob(job_id, key, priority, client, ShapeCost(Shape(model, 64, 64, 2), 3 * images, images)))


def all_of(queue: FairQueue, loaded: str | None = None) -> list[str]:
    taken = []
    while (job := queue.take(loaded)) is not None:
        taken.append(job.job_id)
    return taken


def test_one_clients_jobs_go_in_the_order_they_came() -> None:
    queue = FairQueue()
    for i in range(20):
        come(queue, str(i))
    assert all_of(queue) == [str(i) for i in range(20)]
    assert len(queue) == 0


def test_clients_take_turns_however_many_one_of_them_sent() -> None:
    queue = FairQueue()
    for i in range(4):
        come(queue, f"a{i}", "a")
    first = queue.take(None)
    assert first is not None
    for i in range(2):
        come(queue, f"b{i}", "b")
    come(queue, "c0", "c")
    assert all_of(queue) == ["b0", "c0", "a1", "b1", "a2", "a3"]


def test_turns_are_counted_in_images() -> None:
    queue = FairQueue()
    for i in range(3):
        come(queue, f"four{i}", "a", images=4)
    for i in range(8):
        come(queue, f"one{i}", "b")
    assert all_of(queue)[:7] == ["four0", "one0", "one1", "one2", "one3", "four1", "one4"]


def test_a_client_that_was_away_has_no_turns_saved_up() -> None:
    queue = FairQueue()
    come(queue, "b0", "b")
    for i in range(10):
        come(queue, f"a{i}", "a")
    for _ in range(8):
        queue.take(None)
    for i in range(3):
        come(queue, f"b{i + 1}", "b")
    assert all_of(queue) == ["b1", "a7", "b2", "a8", "b3", "a9"]


def test_a_client_that_takes_its_jobs_back_does_not_wait_for_them() -> None:
    queue = FairQueue()
    for i in range(5):
        come(queue, f"a{i}", "a")
    for i in range(5):
        come(queue, f"b{i}", "b")
    for i in range(5):
        assert queue.remove(f"a{i}")
    assert not queue.remove("a0")
    come(queue, "again", "a")
    assert all_of(queue)[:2] in (["b0", "again"], ["again", "b0"])


def test_priorities_go_before_turns() -> None:
    queue = FairQueue()
    come(queue, "low", priority="low")
    come(queue, "normal")
    come(queue, "high", priority="high")
    come(queue, "higher", "b", priority="high")
    assert all_of(queue) == ["high", "higher", "normal", "low"]


def test_jobs_of_the_loaded_model_overtake_others_so_many_times() -> None:
    queue = FairQueue()
    come(queue, "due", model="other")
    come(queue, "due too", model="other")
    for i in range(MOST_OVERTAKING + 2):
        come(queue, str(i), model="loaded")
    taken = all_of(queue, "loaded")
    assert taken[:MOST_OVERTAKING] == [str(i) for i in range(MOST_OVERTAKING)]
    assert taken[MOST_OVERTAKING] == "due"
    assert sorted(taken[MOST_OVERTAKING + 1 :]) == sorted(["due too", str(MOST_OVERTAKING), str(MOST_OVERTAKING + 1)])


def test_nobody_is_overtaken_for_longer_than_so_many_seconds() -> None:
    clock = Clock()
    queue = FairQueue(clock)
    come(queue, "due", model="other")
    for i in range(3):
        come(queue, str(i), model="loaded")
    first = queue.take("loaded")
    assert first is not None
    assert first.job_id == "0"
    clock.now = OVERTAKING_SECONDS
    assert all_of(queue, "loaded") == ["due", "1", "2"]


def test_the_loaded_model_does_not_overtake_a_higher_priority() -> None:
    queue = FairQueue()
    come(queue, "loaded", model="loaded")
    come(queue, "high", priority="high", model="other")
    assert all_of(queue, "loaded") == ["high", "loaded"]


def test_jobs_with_a_refiner_are_jobs_of_both_models_and_overtake_as_those_of_the_first() -> None:
    queue = FairQueue()
    come(queue, "due", model="other")
    come(queue, "refined", model="base, refiner")
    assert all_of(queue, "base") == ["refined", "due"]
    assert [queue.count_of(model) for model in ("base", "refiner", "base, refiner")] == [1, 1, 0]


def test_jobs_that_need_no_model_can_be_taken_alone() -> None:
    queue = FairQueue()
    come(queue, "image")
    come(queue, "enlarged", priority="low", model="upscalers/lanczos")
    assert queue.has_jobs_without_model
    taken = queue.take(None, models=False)
    assert taken is not None
    assert taken.job_id == "enlarged"
    assert not queue.has_jobs_without_model
    assert queue.take(None, models=False) is None
    assert all_of(queue) == ["image"]


def test_a_job_put_back_keeps_its_key() -> None:
    queue = FairQueue()
    for i in range(3):
        come(queue, str(i))
    taken = queue.take(None)
    assert taken is not None
    queue.add(taken)
    assert all_of(queue) == ["0", "1", "2"]


def test_what_goes_before_a_job_is_counted_over_priorities_models_and_clients() -> None:
    queue = FairQueue()
    come(queue, "a0")
    come(queue, "high", priority="high", images=2)
    come(queue, "low", priority="low")
    come(queue, "b0", "b", model="n")
    come(queue, "a1")
    ahead = queue.ahead("a1")
    assert ahead is not None
    count, total = ahead
    assert count == 3
    assert total.by_shape == {Shape("m", 64, 64, 2): (12, 4), Shape("n", 64, 64, 2): (3, 1)}
    assert queue.ahead("nobody") is None
    taken = queue.take(None)
    assert taken is not None
    # While it runs, it is still ahead of the others, and a job of its model.
    for expected in (3, 2):
        ahead = queue.ahead("a1")
        assert ahead is not None
        assert ahead[0] == expected
        assert [queue.count_of(model) for model in "mno"] == [expected + 1, 1, 0]
        queue.done(taken)


def test_however_many_clients_come_only_some_are_remembered() -> None:
    queue = FairQueue()
    for n in range(2500):
        # Each at the virtual time, which so does not move on.
        come(queue, str(n), f"client {n}")
        assert queue.take(None) is not None
    assert 1000 <= len(queue._finish_tags) <= 2000
    assert queue.start_tag("client 2499", "normal") == 1
    assert queue.start_tag("client 0", "normal") == 0
