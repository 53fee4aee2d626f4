"""The worker process on its own: commands in, events out."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from PIL import Image

from converter.progress import Progress
from server.jobs.messages import (
    Cancel,
    Ended,
    Event,
    Finished,
    Load,
    Loaded,
    LoadFailed,
    Loading,
    ModelRef,
    Prepared,
    Progressed,
    Run,
    Stop,
    Unload,
)
from server.pipeline.infotext import read_infotext
from server.pipeline.request import GenerationRequest, Lora, bind
from tests.support import fake_pipeline
from tests.support.fake_pipeline import BROKEN, CHANGED, FAULTY, FULL, HUGE, LINGERING, MANIFEST, MISFIT, OTHER, SCARCE

PATIENCE = 60.0


def ref(model: str, content: str = "0") -> ModelRef:
    return ModelRef(model, content)


class Worker:
    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def send(self, *commands: object) -> None:
        for command in commands:
            self._pipe.send(command)

    def until(self, last: Callable[[Event], bool]) -> list[Event]:
        """Return its events up to the one that is ``last``."""
        said: list[Event] = []
        while not said or not last(said[-1]):
            assert self._pipe.poll(PATIENCE), f"nothing more after {said}"
            said.append(self._pipe.recv())
        return said

    def run(self, job_id: str, request: GenerationRequest) -> list[Event]:
        """Run a job; return its events, to its end."""
        self.send(Run(job_id, request, ref(request.model), {}))
        return self.until(lambda event: isinstance(event, Ended))


def started(data_dir: Path, previews: bool = True) -> Iterator[Worker]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=fake_pipeline.start, args=(theirs, data_dir, previews)
    )
    process.start()
    theirs.close()
    try:
        yield Worker(ours)
        ours.send(Stop())
        process.join(PATIENCE)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    yield from started(tmp_path_factory.mktemp("data"))


@pytest.fixture
def worker(fresh: Worker) -> Worker:
    """Yield a worker with no model loaded."""
    fresh.send(Load(ref(OTHER)), Unload(OTHER))
    fresh.until(lambda event: event == Loaded(OTHER))
    fresh.until(lambda event: event == Loaded(None))
    return fresh


def request(prompt: str = "a circle", model: str = OTHER, **fields: object) -> GenerationRequest:
    return bind(MANIFEST, prompt=prompt, model=model, **({"seed": 7} | fields))  # type: ignore[arg-type]


def ended(said: list[Event]) -> tuple[str, str | None]:
    last = said[-1]
    assert isinstance(last, Ended)
    return last.status, last.code


def test_a_job_loads_its_model_telling_how_far_it_is(worker: Worker) -> None:
    said = [event for event in worker.run("a", request()) if not isinstance(event, Prepared)]
    assert said[:3] == [
        Loading(OTHER, Progress("loading", "network 0", 0, 2)),
        Loading(OTHER, Progress("loading", "network 1", 1, 2)),
        Loaded(OTHER),
    ]
    assert ended(said) == ("succeeded", None)


def test_the_next_job_of_the_same_model_loads_nothing_and_one_of_another_lets_it_go_first(worker: Worker) -> None:
    worker.run("a", request())
    assert not [e for e in worker.run("b", request()) if isinstance(e, Loading | Loaded)]
    said = [e for e in worker.run("c", request(model="third")) if isinstance(e, Loading | Loaded)]
    assert said[0] == Loaded(None)
    assert said[-1] == Loaded("third")


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        (BROKEN, "model_unavailable", "operators this runtime does not have"),
        (FAULTY, "model_unavailable", "ValueError: a bug"),
        (HUGE, "not_enough_memory", "99 GB"),
    ],
)
def test_a_model_that_cannot_be_loaded_fails_its_job_alone(worker: Worker, model: str, code: str, words: str) -> None:
    last = worker.run("a", request(model=model))[-1]
    assert isinstance(last, Ended)
    assert (last.status, last.code) == ("failed", code)
    assert last.message is not None
    assert words in last.message
    assert model in last.message
    assert ended(worker.run("b", request())) == ("succeeded", None)


def test_a_model_can_be_loaded_ahead_and_let_go(worker: Worker) -> None:
    worker.send(Load(ref(OTHER)), Unload("third"), Unload(OTHER))
    said = worker.until(lambda event: event == Loaded(None))
    assert said[-2:] == [Loaded(OTHER), Loaded(None)]


def test_a_load_that_fails_says_why(worker: Worker) -> None:
    worker.send(Load(ref(HUGE)))
    failed = worker.until(lambda event: isinstance(event, LoadFailed))[-1]
    assert isinstance(failed, LoadFailed)
    assert (failed.model, failed.code) == (HUGE, "not_enough_memory")


def test_a_job_is_cancelled_while_its_model_loads(worker: Worker) -> None:
    worker.send(Run("a", request(model=LINGERING), ref(LINGERING), {}))
    worker.until(lambda event: isinstance(event, Loading))
    worker.send(Cancel("a"))
    said = worker.until(lambda event: isinstance(event, Ended))
    assert ended(said) == ("cancelled", None)
    assert Loaded(LINGERING) not in said


def test_a_job_that_was_cancelled_before_its_turn_does_not_load_its_model(worker: Worker) -> None:
    worker.send(
        Run("a", request("slow"), ref(OTHER), {}), Run("b", request(model="third"), ref("third"), {}), Cancel("b")
    )
    first = worker.until(lambda event: isinstance(event, Ended))
    assert ended(first) == ("succeeded", None)
    assert worker.until(lambda event: isinstance(event, Ended)) == [Ended("b", "cancelled")]


def test_steps_are_reported_with_their_image_and_how_long_they_took(worker: Worker) -> None:
    said = worker.run("a", request("slow", n=2, steps=2))
    steps = [e for e in said if isinstance(e, Progressed)]
    assert [(s.image, s.step, s.total) for s in steps] == [(0, 1, 2), (0, 2, 2), (1, 1, 2), (1, 2, 2)]
    assert all(s.seconds >= fake_pipeline.STEP_SECONDS for s in steps)


@pytest.mark.slow
def test_slow_steps_come_with_a_preview_now_and_then(worker: Worker) -> None:
    said = worker.run("a", request("slow", steps=12))
    previews = [e.preview for e in said if isinstance(e, Progressed)]
    shown = [p for p in previews if p is not None]
    assert 1 <= len(shown) < len(previews)
    assert all(Image.open(io.BytesIO(p)).format == "JPEG" for p in shown)


def test_images_carry_what_makes_them_again(worker: Worker) -> None:
    fields = {"n": 2, "seed": 5, "rng": "cuda", "variation_seed": 9, "variation_strength": 0.25}
    images = [e for e in worker.run("a", request(**fields)) if isinstance(e, Finished)]
    settings = []
    for image in images:
        png = Image.open(io.BytesIO(image.png))
        settings.append(read_infotext(png.text["parameters"]).settings)  # type: ignore[attr-defined]
    assert [p.seed for p in images] == [5, 5]
    assert [s["Variation seed"] for s in settings] == ["9", "10"]
    assert {(s["RNG"], s["Seed"], s["Variation seed strength"], s["Model"]) for s in settings} == {
        ("NV", "5", "0.25", OTHER)
    }


def test_a_model_whose_content_has_changed_is_loaded_again(worker: Worker) -> None:
    worker.send(Load(ref(OTHER, "0")), Load(ref(OTHER, "0")), Load(ref(OTHER, "1")))
    worker.until(lambda event: event == Loaded(OTHER))
    worker.until(lambda event: event == Loaded(OTHER))
    said = worker.until(lambda event: event == Loaded(OTHER))
    assert said[0] == Loaded(None)
    assert any(isinstance(event, Loading) for event in said)


@pytest.mark.slow
def test_a_worker_starts_empty_and_shows_no_previews_where_none_are_wanted(tmp_path: Path) -> None:
    for worker in started(tmp_path, previews=False):
        assert worker.until(lambda event: isinstance(event, Loaded)) == [Loaded(None)]
        said = worker.run("a", request("slow", steps=8))
        assert {e.preview for e in said if isinstance(e, Progressed)} == {None}


def test_a_model_with_other_loras_is_another_and_what_its_job_waits_for_is_told(worker: Worker) -> None:
    worker.run("a", request())
    merged = ModelRef(OTHER, "0", (Lora(name="film", weight=0.5, sha256="f"),))
    worker.send(Run("b", request(), merged, {}))
    said = worker.until(lambda event: isinstance(event, Ended))
    prepared = [event for event in said if isinstance(event, Prepared)]
    assert prepared[0] == Prepared("b", Progress("loading", "network 0", 0, 2))
    assert [event.model for event in said if isinstance(event, Loaded)] == [None, OTHER]
    worker.send(Run("c", request(), merged, {}))
    said = worker.until(lambda event: isinstance(event, Ended))
    assert not any(isinstance(event, Prepared | Loaded) for event in said)
    worker.run("d", request())  # as it was, for other tests


@pytest.mark.parametrize(
    ("model", "code"),
    [(CHANGED, "addon_changed"), (MISFIT, "addon_misfit"), (FULL, "disk_full"), (SCARCE, "disk_full")],
)
def test_a_job_whose_lora_is_gone_or_does_not_fit_or_has_no_room_says_so(worker: Worker, model: str, code: str) -> None:
    said = worker.run("a", request(model=model))
    assert isinstance(said[-1], Ended)
    assert (said[-1].status, said[-1].code) == ("failed", code)
    assert said[-1].message is not None
    assert said[-1].message.startswith(f"{model} cannot be loaded") == (code == "disk_full")
