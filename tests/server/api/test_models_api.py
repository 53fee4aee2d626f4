from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.models.conversions import MOST_OPEN
from tests.support import fake_converter, fake_pipeline
from tests.support.live_server import enqueue, live, over, running, until

MODELS = "/api/v1/models"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models-api")
    for name in (fake_pipeline.OTHER, fake_pipeline.BROKEN, "spare"):
        put(made, name)
    (made / "checkpoints" / "folder").mkdir(parents=True)
    (made / "checkpoints" / "one.safetensors").touch()
    (made / "checkpoints" / "pickle.ckpt").touch()
    return made


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[httpx.Client]:
    with live(data) as client:
        yield client


def put(data_dir: Path, name: str) -> None:
    fake_pipeline.write_model(data_dir / "models" / name)


def convert(server: httpx.Client, source: str, **fields: Any) -> httpx.Response:
    return server.post(MODELS, json={"source": source, **fields})


def ended(server: httpx.Client, url: str) -> dict[str, Any]:
    return dict(until(lambda: (c := server.get(url).json())["status"] not in ("queued", "running") and c))


def test_every_model_is_listed_with_what_it_is_and_takes(server: httpx.Client) -> None:
    reply = server.get(MODELS).json()
    assert reply["default"] == "fake"
    assert {"fake", "other", "broken", "spare"} <= {m["name"] for m in reply["models"]}
    assert reply["checkpoints"] == ["folder", "one.safetensors"]
    fake = next(m for m in reply["models"] if m["name"] == "fake")
    assert fake["default"] is True
    assert fake["sizes"][0] == {"width": 64, "height": 64}
    assert fake["disk_bytes"] > 0
    assert fake["memory"]["fit"] == "together"
    assert server.get(fake["url"]).json() == fake


def test_a_model_is_loaded_instead_of_another_and_let_go(server: httpx.Client) -> None:
    loaded = server.post(f"{MODELS}/other/load")
    assert (loaded.status_code, loaded.json()["loaded"]) == (200, True)
    assert server.get(f"{MODELS}/fake").json()["loaded"] is False
    assert server.post(f"{MODELS}/other/load").status_code == 200
    assert server.post(f"{MODELS}/other/unload").status_code == 202
    until(lambda: not server.get(f"{MODELS}/other").json()["loaded"])
    assert server.post(f"{MODELS}/other/unload").status_code == 200


def test_loading_waits_for_the_job_that_is_being_made(server: httpx.Client) -> None:
    made = enqueue(server, "slow", steps=8)
    running(server, made["id"])
    assert server.post(f"{MODELS}/other/load").json()["loaded"] is True
    assert over(server, made["id"])["status"] == "succeeded"


def test_a_model_that_cannot_be_loaded_says_why_and_the_next_one_can(server: httpx.Client) -> None:
    answer = server.post(f"{MODELS}/broken/load")
    assert answer.status_code == 503
    message = "broken cannot be loaded: broken/unet uses operators this runtime does not have"
    assert answer.json()["error"] == {"code": "model_unavailable", "message": message}
    failed = server.post("/api/v1/txt2img", json={"prompt": "a", "model": "broken"})
    assert failed.json()["error"] == {"code": "model_unavailable", "message": message}
    assert server.post(f"{MODELS}/other/load").status_code == 200


def test_a_load_whose_worker_dies_is_answered_at_once_and_the_next_worker_loads_others(
    server: httpx.Client, data: Path
) -> None:
    put(data, fake_pipeline.DEADLY)
    answer = server.post(f"{MODELS}/deadly/load")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_died")
    assert answer.json()["error"]["message"].startswith("deadly was not loaded: the worker died (exit status -9)")
    again = server.post(f"{MODELS}/other/load")
    assert again.status_code == 200 or again.json()["error"]["code"] == "not_ready"
    until(lambda: server.post(f"{MODELS}/other/load").status_code == 200)


@pytest.mark.slow
def test_a_load_that_waits_for_a_job_is_answered_when_the_job_kills_the_worker(server: httpx.Client) -> None:
    made = enqueue(server, "die late")
    until(lambda: server.get(f"/api/v1/jobs/{made['id']}").json()["status"] == "running")
    answer = server.post(f"{MODELS}/other/load")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_died")
    over(server, made["id"])
    until(lambda: server.get("/readyz").status_code == 200)


def test_a_model_that_is_still_converted_is_not_there_yet(server: httpx.Client) -> None:
    reply = convert(server, "somebody/slow-one").json()
    for answer in (server.get(f"{MODELS}/slow-one"), server.post(f"{MODELS}/slow-one/load")):
        assert answer.status_code == 404
        assert f"slow-one is still being converted; {reply['url']} shows" in answer.json()["error"]["message"]
    server.delete(reply["url"])
    ended(server, reply["url"])


def test_a_model_whose_folder_goes_while_its_load_waits_is_told_so(server: httpx.Client, data: Path) -> None:
    put(data, "going")
    made = enqueue(server, "slow", steps=8)
    running(server, made["id"])
    with ThreadPoolExecutor(1) as elsewhere:
        waiting = elsewhere.submit(server.post, f"{MODELS}/going/load")
        until(lambda: server.get(f"{MODELS}/going").status_code == 200)
        shutil.rmtree(data / "models" / "going")
        answer = waiting.result()
    assert answer.status_code in (404, 503)
    assert "going" in answer.json()["error"]["message"]
    over(server, made["id"])


@pytest.mark.parametrize("name", ["nothing", "%2E%2E%5C", "%00", "a" * 300])
def test_what_is_not_installed_is_not_there(server: httpx.Client, name: str) -> None:
    url = f"{MODELS}/{name}"
    for answer in (server.get(url), server.post(f"{url}/load"), server.post(f"{url}/unload"), server.delete(url)):
        assert answer.status_code == 404, answer.text
        assert answer.json()["error"]["code"] == "no_such_model"
        assert "installed:" in answer.json()["error"]["message"]


def test_a_model_is_deleted_once_no_job_needs_it(server: httpx.Client, data: Path) -> None:
    made = enqueue(server, "slow", steps=100, model="spare")
    answer = server.delete(f"{MODELS}/spare")
    assert answer.status_code == 409
    assert "1 jobs" in answer.json()["error"]["message"]
    server.delete(f"/api/v1/jobs/{made['id']}")
    over(server, made["id"])
    assert server.delete(f"{MODELS}/spare").status_code == 204
    assert server.get(f"{MODELS}/spare").status_code == 404
    assert not (data / "models" / "spare").exists()


def test_the_default_model_is_not_deleted(server: httpx.Client) -> None:
    assert server.delete(f"{MODELS}/fake").status_code == 409
    assert server.get(f"{MODELS}/fake").status_code == 200


def test_a_model_is_converted_and_generates_images(server: httpx.Client) -> None:
    answer = convert(server, "somebody/model-a")
    assert answer.status_code == 202
    assert answer.json()["source"] == "somebody/model-a@main"
    reply = ended(server, answer.headers["location"])
    assert (reply["status"], reply["model"], reply["error"]) == ("succeeded", "model-a", None)
    generated = server.post("/api/v1/txt2img", json={"prompt": "a", "model": "model-a"})
    assert generated.headers["content-type"] == "image/png"


def test_asking_twice_is_answered_with_the_same_conversion(server: httpx.Client, data: Path) -> None:
    first = convert(server, "somebody/twice").json()
    again = convert(server, "somebody/twice@main", name="anything")
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    ended(server, first["url"])
    assert convert(server, "somebody/twice").status_code == 200
    assert fake_converter.begun(data).count("somebody/twice@main") == 1


def test_a_revision_is_another_model(server: httpx.Client) -> None:
    first, second = convert(server, "somebody/model-r").json(), convert(server, "somebody/model-r@v1.0/x").json()
    assert (first["model"], second["model"]) == ("model-r", "model-r-v1.0-x")
    assert ended(server, second["url"])["status"] == "succeeded"


def test_a_conversion_is_watched_to_its_end(server: httpx.Client) -> None:
    reply = convert(server, "somebody/steady").json()
    told: list[tuple[str, dict[str, Any]]] = []
    with server.stream("GET", f"{reply['url']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                told.append((kind, json.loads(line.removeprefix("data: "))))
    assert told[-1][0] == "state"
    assert told[-1][1]["status"] == "succeeded"
    assert any(kind == "progress" and data["stage"] == "converting" for kind, data in told)
    with server.stream("GET", f"{reply['url']}/events") as answer:  # of one that is over: its state, and the end
        assert sum(line.startswith("data: ") for line in answer.iter_lines()) == 1


def test_a_running_conversion_is_cancelled(server: httpx.Client) -> None:
    reply = convert(server, "somebody/slow").json()
    until(lambda: (p := server.get(reply["url"]).json()["progress"]) and p["stage"] == "converting")
    assert server.get(MODELS).json()["conversions"][0]["id"] == reply["id"]
    server.delete(reply["url"])
    assert ended(server, reply["url"])["status"] == "cancelled"
    assert server.get(f"{MODELS}/slow").status_code == 404
    assert convert(server, "somebody/slow").status_code == 202
    server.delete(reply["url"])
    ended(server, reply["url"])


def test_what_lies_in_the_checkpoints_folder_is_converted_and_told_without_its_path(server: httpx.Client) -> None:
    reply = convert(server, "one.safetensors").json()
    assert (reply["source"], reply["model"]) == ("one.safetensors", "one")
    assert ended(server, reply["url"])["status"] == "succeeded"


def test_why_a_conversion_failed_is_told(server: httpx.Client) -> None:
    reply = ended(server, convert(server, "somebody/bad").json()["url"])
    assert reply["status"] == "failed"
    assert "unknown architecture" in reply["error"]["message"]


@pytest.mark.parametrize(
    "source",
    [
        "/etc/passwd",
        "../models",
        "folder/../../x",
        "https://example.com/a",
        "file:///etc/passwd",
        "pickle.ckpt",
        "",
        "a/b@",
        "a/b\n",
        "~/x",
        "-rf/x y",
        "a/../b",
    ],
)
def test_a_source_that_is_no_address_is_refused_with_what_is_accepted(server: httpx.Client, source: str) -> None:
    answer = convert(server, source)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == "source"
    assert "checkpoints: folder, one.safetensors" in answer.json()["error"]["accepted"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../x"),
        ("name", "conversions"),
        ("name", ".hidden"),
        ("name", ""),
        ("name", "x\n"),
        ("sizes", []),
        ("sizes", [{"width": 1, "height": 64}]),
        ("sizes", [{"width": True, "height": 64}]),
        ("sizes", [{"width": 511, "height": 64}]),
        ("batches", [3]),
        ("tokens", [78]),
        ("attention", "fast"),
        ("vae", "/etc"),
        ("controlnets", ["a/b", "./c"]),
        ("verify", False),
        ("bits", True),
        ("batches", [True]),
        ("group_size", True),
    ],
)
def test_a_wrong_option_is_named(server: httpx.Client, field: str, value: Any) -> None:
    answer = convert(server, "somebody/wrong", **{field: value})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"].startswith(field)


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"bits": 3}, "target", "palettes of 3 bits need macOS 15, and the target is macOS13"),
        ({"bits": 6, "group_size": 8, "target": "macOS14"}, "target", "groups of channels need macOS 15"),
        ({"bits": 6, "quantization": "linear"}, "bits", "accepted: 8, 4"),
        ({"quantization": "linear"}, "quantization", "give bits too"),
        ({"group_size": 8}, "group_size", "give bits too"),
        ({"functions": True}, "target", "leave functions out"),
        ({"image_encoder": "a/b"}, "image_encoder", "ip_adapters is empty"),
    ],
)
def test_options_that_do_not_go_together_are_refused_at_once(
    server: httpx.Client, options: dict[str, Any], field: str, words: str
) -> None:
    answer = convert(server, "somebody/wrong", **options)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == field
    assert words in answer.json()["error"]["message"]


def test_a_name_that_is_taken_is_refused(server: httpx.Client) -> None:
    answer = convert(server, "somebody/other")
    assert answer.status_code == 409
    assert "another name" in answer.json()["error"]["message"]
    assert convert(server, "somebody/other", name="other-2").status_code == 202


def test_too_many_conversions_are_told_to_come_back(server: httpx.Client) -> None:
    waiting = [convert(server, f"somebody/slow{i}") for i in range(MOST_OPEN + 1)]
    try:
        assert (waiting[0].status_code, waiting[-1].status_code) == (202, 429)
        assert int(waiting[-1].headers["retry-after"]) > 0
        assert convert(server, "somebody/slow3").status_code == 200
    finally:
        for answer in reversed(waiting[:-1]):
            server.delete(answer.headers["location"])
    ended(server, waiting[0].headers["location"])


def test_capabilities_name_every_model_and_what_may_be_asked_of_it(server: httpx.Client) -> None:
    reply = server.get("/api/v1/capabilities").json()
    assert reply["model"]["name"] == "fake"
    assert reply["defaults"] == reply["model"]["defaults"]
    assert {"fake", "other"} <= {m["name"] for m in reply["models"]}
    assert reply["rngs"] == ["torch", "numpy", "cuda"]
    assert reply["limits"]["queue"] > 0
    assert "events" in reply["features"]


def test_a_model_that_goes_while_it_is_looked_at_is_no_failure(data: Path, server: httpx.Client) -> None:
    """Many times: the listing reads each folder while another client deletes it."""
    for number in range(10):
        put(data, f"brief-{number}")
    with ThreadPoolExecutor(4) as clients:
        listings = [clients.submit(server.get, MODELS) for _ in range(20)]
        deletions = [clients.submit(server.delete, f"{MODELS}/brief-{number}") for number in range(10)]
        looks = [clients.submit(server.get, f"{MODELS}/brief-{number}") for number in range(10)]
    assert {asked.result().status_code for asked in listings} == {200}
    assert {asked.result().status_code for asked in deletions} == {204}
    assert {asked.result().status_code for asked in looks} <= {200, 404}


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        (fake_pipeline.CHANGED, 409, "addon_changed"),
        (fake_pipeline.MISFIT, 422, "addon_misfit"),
        (fake_pipeline.SCARCE, 507, "disk_full"),
    ],
)
def test_a_lora_that_was_replaced_or_does_not_fit_or_has_no_room_is_told_as_that(
    server: httpx.Client, data: Path, model: str, status: int, code: str
) -> None:
    put(data, model)
    answer = server.post("/api/v1/txt2img", json={"prompt": "a", "model": model})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
