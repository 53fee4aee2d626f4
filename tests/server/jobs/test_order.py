from __future__ import annotations

import itertools

from server.jobs.job import Priority
from server.jobs.line import Place
from server.jobs.order import MOST_PASSING, PASSING_SECONDS, Order, Waiting
from server.jobs.pace import Shape, Work

_NUMBERS = itertools.count(1)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def come(
    order: Order, job_id: str, client: str = "a", priority: Priority = "normal", model: str = "m", pictures: int = 1
) -> None:
    place = Place(order.turn(client, priority), next(_NUMBERS))
    order.add(Waiting(job_id, place, priority, client, Work(Shape(model, 64, 64, 2), 3 * pictures, pictures)))


def all_of(order: Order, loaded: str | None = None) -> list[str]:
    taken = []
    while (job := order.take(loaded)) is not None:
        taken.append(job.job_id)
    return taken


def test_one_clients_jobs_go_in_the_order_they_came() -> None:
    order = Order()
    for i in range(20):
        come(order, str(i))
    assert all_of(order) == [str(i) for i in range(20)]
    assert len(order) == 0


def test_clients_take_turns_however_many_one_of_them_sent() -> None:
    order = Order()
    for i in range(4):
        come(order, f"a{i}", "a")
    first = order.take(None)
    assert first is not None
    for i in range(2):
        come(order, f"b{i}", "b")
    come(order, "c0", "c")
    assert all_of(order) == ["b0", "c0", "a1", "b1", "a2", "a3"]


def test_turns_are_counted_in_pictures() -> None:
    order = Order()
    for i in range(3):
        come(order, f"four{i}", "a", pictures=4)
    for i in range(8):
        come(order, f"one{i}", "b")
    assert all_of(order)[:7] == ["four0", "one0", "one1", "one2", "one3", "four1", "one4"]


def test_a_client_that_was_away_has_no_turns_saved_up() -> None:
    order = Order()
    come(order, "b0", "b")
    for i in range(10):
        come(order, f"a{i}", "a")
    for _ in range(8):
        order.take(None)
    for i in range(3):
        come(order, f"b{i + 1}", "b")
    assert all_of(order) == ["b1", "a7", "b2", "a8", "b3", "a9"]


def test_a_client_that_takes_its_jobs_back_does_not_wait_for_them() -> None:
    order = Order()
    for i in range(5):
        come(order, f"a{i}", "a")
    for i in range(5):
        come(order, f"b{i}", "b")
    for i in range(5):
        assert order.remove(f"a{i}")
    assert not order.remove("a0")
    come(order, "again", "a")
    assert all_of(order)[:2] in (["b0", "again"], ["again", "b0"])


def test_priorities_go_before_turns() -> None:
    order = Order()
    come(order, "low", priority="low")
    come(order, "normal")
    come(order, "high", priority="high")
    come(order, "higher", "b", priority="high")
    assert all_of(order) == ["high", "higher", "normal", "low"]


def test_jobs_of_the_loaded_model_pass_others_so_many_times() -> None:
    order = Order()
    come(order, "due", model="other")
    come(order, "due too", model="other")
    for i in range(MOST_PASSING + 2):
        come(order, str(i), model="loaded")
    taken = all_of(order, "loaded")
    assert taken[:MOST_PASSING] == [str(i) for i in range(MOST_PASSING)]
    assert taken[MOST_PASSING] == "due"
    assert sorted(taken[MOST_PASSING + 1 :]) == sorted(["due too", str(MOST_PASSING), str(MOST_PASSING + 1)])


def test_nobody_is_passed_for_longer_than_so_many_seconds() -> None:
    clock = Clock()
    order = Order(clock)
    come(order, "due", model="other")
    for i in range(3):
        come(order, str(i), model="loaded")
    first = order.take("loaded")
    assert first is not None
    assert first.job_id == "0"
    clock.now = PASSING_SECONDS
    assert all_of(order, "loaded") == ["due", "1", "2"]


def test_the_loaded_model_does_not_pass_a_higher_priority() -> None:
    order = Order()
    come(order, "loaded", model="loaded")
    come(order, "high", priority="high", model="other")
    assert all_of(order, "loaded") == ["high", "loaded"]


def test_a_job_put_back_keeps_its_place() -> None:
    order = Order()
    for i in range(3):
        come(order, str(i))
    taken = order.take(None)
    assert taken is not None
    order.add(taken)
    assert all_of(order) == ["0", "1", "2"]


def test_what_goes_before_a_job_is_counted_over_priorities_models_and_clients() -> None:
    order = Order()
    come(order, "a0")
    come(order, "high", priority="high", pictures=2)
    come(order, "low", priority="low")
    come(order, "b0", "b", model="n")
    come(order, "a1")
    ahead = order.ahead("a1")
    assert ahead is not None
    count, work = ahead
    assert count == 3
    assert work.work == {Shape("m", 64, 64, 2): (12, 4), Shape("n", 64, 64, 2): (3, 1)}
    assert order.ahead("nobody") is None
    order.take(None)
    for expected in (3, 2):
        ahead = order.ahead("a1")
        assert ahead is not None
        assert ahead[0] == expected
        order.done()
    assert (order.count_of("m"), order.count_of("n"), order.count_of("o")) == (3, 1, 0)
