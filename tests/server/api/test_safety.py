"""Flagged images over HTTP: what a client is told, what it gets, and what is counted."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from server.jobs.local_worker import WorkerSettings, start_worker
from server.settings import Safety
from server.supervisor import spawn
from tests.support.live_server import enqueue, live, over


def counted(client: httpx.Client, outcome: str) -> float:
    match = re.search(rf'anemone_flagged_images_total{{outcome="{outcome}"}} (\S+)', client.get("/metrics").text)
    assert match is not None
    return float(match[1])


def make(client: httpx.Client, prompt: str, **fields: Any) -> httpx.Response:
    return client.post("/api/v1/txt2img", json={"prompt": prompt, "seed": 3, "steps": 1, **fields})


def test_a_blurred_image_says_so_on_every_way_out(client: httpx.Client) -> None:
    before = counted(client, "blurred")
    answer = make(client, "flagged")
    assert (answer.status_code, answer.headers["x-anemone-safety"]) == (200, "blurred")
    job = over(client, answer.headers["x-job-id"])
    assert [image["flagged"] for image in job["images"]] == [True]
    assert client.get(job["images"][0]["url"]).headers["x-anemone-safety"] == "blurred"
    assert counted(client, "blurred") == before + 1


def test_an_image_that_passes_says_nothing(client: httpx.Client) -> None:
    answer = make(client, "a circle")
    assert "x-anemone-safety" not in answer.headers
    assert [image["flagged"] for image in over(client, answer.headers["x-job-id"])["images"]] == [False]


def test_a_refused_image_is_an_error_with_a_code_of_its_own(client: httpx.Client) -> None:
    before = counted(client, "refused")
    answer = make(client, "unsafe")
    assert (answer.status_code, answer.headers["x-anemone-safety"]) == (422, "refused")
    assert answer.json()["error"]["code"] == "unsafe_image"
    assert counted(client, "refused") == before + 1


def test_a_job_that_was_refused_has_no_image(client: httpx.Client) -> None:
    job = over(client, enqueue(client, "unsafe")["id"])
    assert (job["status"], job["error"]["code"], job["images"]) == ("failed", "unsafe_image", [])


@pytest.fixture(scope="module")
def model(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose model has a checker that flags everything."""
    from converter.conversion.convert import convert
    from converter.options import ConvertOptions
    from converter.sources.source import open_source
    from tests.support.safety_checkers import ALWAYS, write_checker

    data = tmp_path_factory.mktemp("data")
    options = ConvertOptions(safety_checker=write_checker(data / "checker", ALWAYS), verify=False)
    (data / "models").mkdir()
    convert(open_source(str(checkpoint)), data / "models" / "checked", options)
    return data


def answer_of(data: Path, safety: Safety) -> tuple[httpx.Response, dict[str, Any], list[Any]]:
    """Return the answer of a server with this setting, its job, and the previews in the job's events."""
    launch = spawn(start_worker, WorkerSettings(data, {}, safety=safety), name="worker")
    with live(data, "checked", launch=launch) as client:
        answer = make(client, "red")
        job = client.get("/api/v1/jobs").json()["jobs"][0]
        return answer, job, re.findall(r'"preview":\s*"', client.get(f"{job['url']}/events").text)


@pytest.mark.slow
def test_each_setting_does_what_it_says_with_a_real_checker(model: Path) -> None:
    plain, job, _ = answer_of(model, "off")
    assert plain.status_code == 200
    assert "x-anemone-safety" not in plain.headers
    assert not job["images"][0]["flagged"]

    hidden, job, previews = answer_of(model, "blur")
    assert (hidden.status_code, hidden.headers["x-anemone-safety"]) == (200, "blurred")
    assert job["images"][0]["flagged"]
    assert not previews
    original, blurred = (np.asarray(Image.open(io.BytesIO(a.content))).astype(float) for a in (plain, hidden))
    assert np.abs(np.diff(blurred, axis=0)).max() < np.abs(np.diff(original, axis=0)).max() / 4

    refused, job, previews = answer_of(model, "refuse")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "unsafe_image")
    assert (job["status"], job["images"]) == ("failed", [])
    assert not previews
