"""Whose job an interruption ends, and what is remembered of tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from server.api.sdapi.progress import to_interrupt
from server.api.sdapi.state import State, Task
from server.events import Status
from server.jobs.job import Job

JOB = Job("", 0, "running", "fake", "normal", None, 0.0, None, None, 1, 0, 0.0, (), None)


class Queue:
    """Knows jobs by their ids."""

    def __init__(self, **statuses: Status) -> None:
        self.jobs = {
            name: replace(JOB, id=name, status=status, position=number if status == "queued" else None)
            for number, (name, status) in enumerate(statuses.items())
        }

    def job(self, job_id: str) -> Job | None:
        return self.jobs.get(job_id)


def state_of(**clients: str) -> State:
    """The state after each job was submitted by its client."""
    state = State()
    for job, client in clients.items():
        state.tasks.add(Task(f"task of {job}", job, client))
    return state


@pytest.mark.parametrize(("client", "ended"), [
    ("alice", "first"),  # hers runs
    ("bob", "second"),  # his waits: hers goes on
    ("carol", "first"),  # she has none, as a user behind another address
])  # fmt: skip
def test_a_client_interrupts_its_own_job_first(client: str, ended: str) -> None:
    state = state_of(first="alice", second="bob", third="bob", fourth="alice")
    queue: Any = Queue(first="running", second="queued", third="queued", fourth="queued")
    task = to_interrupt(queue, state, client)
    assert task is not None
    assert task.job_id == ended


def test_without_a_running_job_nobody_elses_queued_one_is_interrupted() -> None:
    state = state_of(first="alice")
    queue: Any = Queue(first="queued")
    assert to_interrupt(queue, state, "bob") is None


def test_jobs_that_have_ended_or_expired_wait_no_more() -> None:
    state = state_of(done="alice", gone="alice", next="alice", runs="bob")
    queue: Any = Queue(done="succeeded", next="queued", runs="running")
    assert [task.job_id for task, _ in state.tasks.waiting(queue)] == ["runs", "next"]


def test_the_newest_of_tasks_with_the_same_id_counts_and_old_ones_are_forgotten() -> None:
    state = state_of()
    for number in range(2000):
        state.tasks.add(Task(f"{number % 1500}", f"job {number}", ""))
    newest = state.tasks.find("499")
    assert newest is not None
    assert newest.job_id == "job 1999"
    assert state.tasks.find("600") is None
    assert state.tasks.find("1499") is not None
    state.tasks.add(Task("1000", "job 2000", ""))
    for number in range(999):
        state.tasks.add(Task(f"later {number}", f"job {2001 + number}", ""))
    assert state.tasks.find("1000") is not None


def test_a_job_that_was_waited_for_is_not_looked_up_again() -> None:
    state = state_of(first="alice")
    state.tasks.end("first")
    asked: list[str] = []
    queue: Any = Queue()
    queue.job = asked.append
    assert state.tasks.waiting(queue) == []
    assert asked == []
