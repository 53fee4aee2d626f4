"""The calls of the image tasks: what each takes, and how images arrive in forms and in JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.live_server import over

Encoded = Callable[..., bytes]


def refused(answer: httpx.Response, status: int = 422) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


def text(image: bytes) -> str:
    return base64.b64encode(image).decode()


@pytest.mark.parametrize(
    ("task", "fields", "missing"),
    [
        ("img2img", {"prompt": "a"}, "image"),
        ("inpaint", {"prompt": "a", "image": ""}, "mask"),
        ("inpaint", {"prompt": "a", "mask": ""}, "image"),
        ("outpaint", {"prompt": "a", "extend_left": 8}, "image"),
        ("variations", {}, "image"),
        ("txt2img", {}, "prompt"),
    ],
)
def test_what_a_task_needs_is_named(client: httpx.Client, task: str, fields: dict[str, str], missing: str) -> None:
    error = refused(client.post(f"/api/v1/{task}", json=fields))
    assert (error["code"], error["field"]) == ("missing_field", missing)


@pytest.mark.parametrize(
    ("task", "field", "takers"),
    [
        ("txt2img", "image", "img2img, inpaint, outpaint, variations"),
        ("txt2img", "strength", "img2img, inpaint, outpaint, variations"),
        ("img2img", "mask", "inpaint, outpaint"),
        ("inpaint", "extend_left", "outpaint"),
    ],
)
def test_a_field_of_another_task_is_refused_by_its_name(
    client: httpx.Client, task: str, field: str, takers: str
) -> None:
    error = refused(client.post(f"/api/v1/{task}", json={"prompt": "a", field: 1}))
    assert (error["code"], error["field"]) == ("unknown_field", field)
    assert error["accepted"].startswith(f"by {takers}; here: priority, ")


@pytest.mark.parametrize("task", ["img2img", "variations"])
def test_a_job_tells_the_task_that_was_called(client: httpx.Client, encoded: Encoded, task: str) -> None:
    """Both take an image and a prompt, which may be empty."""
    for prompt, strength in (("", None), ("a", 0.5)):
        body = {"prompt": prompt, "image": text(encoded()), "strength": strength}
        answer = client.post(f"/api/v1/{task}", json=body, headers={"Accept": "application/json"})
        job = answer.json()
        assert job["task"] == task, answer.text
        usual = {"img2img": 0.75, "variations": 0.6}[task]
        assert job["request"]["strength"] == (strength or usual)


def test_a_form_names_the_files_of_a_list(client: httpx.Client, encoded: Encoded) -> None:
    form = {"prompt": "a", "controls": json.dumps([{"image": "edges", "weight": 5}])}
    error = refused(client.post("/api/v1/txt2img", data=form, files={"edges": encoded()}))
    assert (error["field"], error["accepted"]) == ("controls.0.weight", "0 to 2")


def test_a_list_that_names_no_file_of_the_form_says_which_there_are(client: httpx.Client, encoded: Encoded) -> None:
    form = {"prompt": "a", "controls": json.dumps([{"image": "lines"}])}
    error = refused(client.post("/api/v1/txt2img", data=form, files={"edges": encoded()}))
    assert error["message"] == "controls.0.image is 'lines'; accepted: the name of a file of this form; it has edges"


def test_a_file_that_nothing_names_is_refused(client: httpx.Client, encoded: Encoded) -> None:
    error = refused(
        client.post("/api/v1/img2img", data={"prompt": "a"}, files={"image": encoded(), "edges": encoded()})
    )
    assert (error["code"], error["field"]) == ("unknown_field", "edges")
    assert error["value"].startswith("a file of ")


def test_a_file_in_the_place_of_a_text_is_refused(client: httpx.Client, encoded: Encoded) -> None:
    error = refused(client.post("/api/v1/img2img", files={"image": encoded(), "prompt": encoded()}))
    assert (error["field"], error["accepted"]) == ("prompt", "text")


@pytest.mark.parametrize(
    ("sent", "accepted"), [("[", "a list of objects as JSON"), ("3", "a list"), ("[3]", "an object")]
)
def test_a_list_of_a_form_is_json(client: httpx.Client, sent: str, accepted: str) -> None:
    error = refused(client.post("/api/v1/txt2img", files={"prompt": (None, "a"), "controls": (None, sent)}))
    assert accepted in error["message"]


def test_a_page_may_leave_out_a_file(client: httpx.Client, encoded: Encoded) -> None:
    """Browsers send an empty file without a name for a field in which none was chosen."""
    files = {"image": ("a.png", encoded()), "palette_image": ("", b"")}
    head = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n%s\r\n'
    body = b"".join(head % (n.encode(), f.encode(), content) for n, (f, content) in files.items())
    body += b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n--x--\r\n'
    answer = client.post("/api/v1/img2img", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 200, answer.text


def test_a_control_of_a_model_without_control_nets_says_which_conversion_brings_one(
    client: httpx.Client, encoded: Encoded
) -> None:
    error = refused(client.post("/api/v1/txt2img", json={"prompt": "a", "controls": [{"image": text(encoded())}]}))
    assert error["field"] == "controls.0.net"
    (model,) = client.get("/api/v1/capabilities").json()["models"]
    assert model["abilities"]["controls"]["needs"] in error["message"]


def test_a_prompt_is_a_form_too(client: httpx.Client) -> None:
    answer = client.post("/api/v1/txt2img", files={"prompt": (None, "a circle"), "seeds": (None, "3,4")})
    assert [image["seed"] for image in answer.json()["images"]] == [3, 4]


def test_variations_need_no_prompt_and_change_a_part_of_the_image(client: httpx.Client, encoded: Encoded) -> None:
    answer = client.post("/api/v1/variations", files={"image": encoded()}, data={"steps": "10"})
    job = over(client, answer.headers["x-job-id"])
    assert (job["task"], job["request"]["prompt"], job["request"]["strength"]) == ("variations", "", 0.6)


@pytest.mark.parametrize("task", ["txt2img", "img2img"])
def test_a_job_says_which_task_it_is(client: httpx.Client, encoded: Encoded, task: str) -> None:
    fields = {"prompt": "a", **({"image": text(encoded())} if task == "img2img" else {})}
    answer = client.post(f"/api/v1/{task}", json=fields)
    job = over(client, answer.headers["x-job-id"])
    assert job["task"] == task
    assert job["size"] == job["computed"] == {"width": 64, "height": 64}


def test_capabilities_say_which_tasks_a_model_can_do(client: httpx.Client) -> None:
    (model,) = client.get("/api/v1/capabilities").json()["models"]
    assert set(model["tasks"]) == {"txt2img", "img2img", "inpaint", "outpaint", "variations"}
    assert all(task == {"available": True, "needs": None} for task in model["tasks"].values())
    assert not model["abilities"]["adapter"]["available"]
