"""Images inside a list: what is wrong with one is said of its place in the list, in JSON and in forms."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from converter.manifest import Package
from server.pipeline.decoding.file import ACCEPTED
from tests.support import fake_pipeline
from tests.support.live_server import live
from tests.support.processes import copied

Encoded = Callable[..., bytes]
MANIFEST = replace(
    fake_pipeline.MANIFEST,
    networks=fake_pipeline.MANIFEST.networks
    | {
        "unet": (Package("unet.mlpackage", 64, 64, 2, control=True),),
        "controlnet/canny": (Package("controlnet.mlpackage", 64, 64, 2),),
        "ip_adapter/plus": (Package("adapter.mlpackage", 64, 64, 2),),
    },
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server whose model has a ControlNet and an IP-Adapter."""
    data = tmp_path_factory.mktemp("data")
    fake_pipeline.write_model(data / "models" / "fake", MANIFEST)
    with live(data, launch=copied(fake_pipeline.start, data, name="fake-worker")) as opened:
        yield opened


def refused(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 422, answer.text
    return dict(answer.json()["error"])


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sent(client: httpx.Client, *images: object) -> httpx.Response:
    controls = [{"net": "canny"} | ({} if image is None else {"image": image}) for image in images]
    return client.post("/api/v1/txt2img", json={"prompt": "a", "controls": controls})


def form(client: httpx.Client, controls: object, **files: bytes) -> httpx.Response:
    written = controls if isinstance(controls, str) else json.dumps(controls)
    return client.post("/api/v1/txt2img", data={"prompt": "a", "controls": written}, files=files)


def test_a_list_of_images_is_taken_in_both_forms(client: httpx.Client, encoded: Encoded) -> None:
    assert sent(client, text(encoded()), text(encoded())).status_code == 200
    controls = [{"net": "canny", "image": "edges"}, {"net": "canny", "image": "edges", "weight": 0.5}]
    assert form(client, controls, edges=encoded()).status_code == 200


@pytest.mark.parametrize(
    "damage",
    [lambda image: b"GIF89a", lambda image: image[:-30], lambda image: b"%PDF-1.7 " + image],
    ids=["no frame", "cut short", "no image"],
)
def test_an_image_that_cannot_be_read_is_named(
    client: httpx.Client, encoded: Encoded, damage: Callable[[bytes], bytes]
) -> None:
    bad = damage(encoded())
    for answer in (
        sent(client, text(encoded()), text(bad)),
        form(client, [{"image": "good"}, {"image": "bad"}], good=encoded(), bad=bad),
    ):
        error = refused(answer)
        assert (error["code"], error["field"]) == ("invalid_image", "controls.1.image")
        assert error["accepted"].startswith(ACCEPTED)
        assert error["message"].endswith(f"accepted: {error['accepted']}")


@pytest.mark.parametrize(("image", "code"), [(None, "missing_field"), (3, "invalid_field"), ("?", "invalid_field")])
def test_what_is_no_image_is_named(client: httpx.Client, encoded: Encoded, image: object, code: str) -> None:
    error = refused(sent(client, text(encoded()), image))
    assert (error["code"], error["field"]) == (code, "controls.1.image")


@pytest.mark.parametrize(
    ("second", "code"),
    [
        ({}, "missing_field"),
        ({"image": 3}, "invalid_field"),
        ({"image": None}, "invalid_field"),
        ({"image": "lines"}, "invalid_field"),
    ],
)
def test_a_form_whose_list_names_no_file_says_which_there_are(
    client: httpx.Client, encoded: Encoded, second: dict[str, Any], code: str
) -> None:
    error = refused(form(client, [{"image": "edges"}, second], edges=encoded(), depth=encoded()))
    assert (error["code"], error["field"]) == (code, "controls.1.image")
    assert error["accepted"] == "the name of a file of this form; it has edges, depth"


@pytest.mark.parametrize(
    ("controls", "accepted"),
    [
        ('[{"image": "edges", "weight": 1, "weight": 2}]', '"weight" is in an object more than once'),
        ("[", "a list of objects as JSON"),
        ('{"image": "edges"}', "a list"),
        ('["edges"]', "an object"),
    ],
)
def test_a_wrong_list_is_named_and_not_the_file_that_it_should_have_named(
    client: httpx.Client, encoded: Encoded, controls: str, accepted: str
) -> None:
    error = refused(form(client, controls, edges=encoded()))
    assert error["field"].partition(".")[0] == "controls"
    assert accepted in error["message"]


def test_a_list_as_a_file_is_told_how_it_is_sent(client: httpx.Client, encoded: Encoded) -> None:
    files = {"controls": ("controls.json", b'[{"image": "edges"}]'), "edges": ("edges.png", encoded())}
    error = refused(client.post("/api/v1/txt2img", data={"prompt": "a"}, files=files))
    assert (error["field"], error["accepted"]) == ("controls", "text: curl -F controls='<controls.json'")


@pytest.mark.parametrize("path", ["generations", "edits"])
def test_a_form_of_openais_calls_has_its_controls_images_under_any_name(
    client: httpx.Client, encoded: Encoded, path: str
) -> None:
    for name in ("image", "map"):
        files = {name: encoded()} | ({"image": encoded()} if path == "edits" else {})
        controls = json.dumps([{"net": "canny", "image": name}])
        answer = client.post(f"/v1/images/{path}", data={"prompt": "a", "controls": controls}, files=files)
        assert (answer.status_code, answer.json().get("notes")) == (200, []), answer.text


@pytest.mark.parametrize(
    ("second", "others", "param", "said"),
    [
        (b"no image", {}, "image.1", "this is text"),
        (b"", {}, "image.1", "empty file"),
        (None, {"image[]": None}, "image", "two, of which the second"),
        (None, {"adapter_image": None}, "image", "one beside adapter_image"),
    ],
)
def test_what_is_wrong_with_the_second_image_of_openais_edits_is_said_of_its_place(
    client: httpx.Client, encoded: Encoded, second: bytes | None, others: dict[str, None], param: str, said: str
) -> None:
    files = [("image[]", encoded()), ("image[]", encoded() if second is None else second)]
    sent = [(name, (f"{name}.png", data)) for name, data in (*files, *((name, encoded()) for name in others))]
    answer = client.post("/v1/images/edits", data={"prompt": "a"}, files=sent)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert said in answer.json()["error"]["message"]


def test_a_second_image_of_openais_edits_stands_beside_the_prompt(client: httpx.Client, encoded: Encoded) -> None:
    files = [("image[]", ("a.png", encoded(colour="lime"))), ("image[]", ("b.png", encoded(colour="red")))]
    made = client.post("/v1/images/edits", data={"prompt": "a"}, files=files).json()
    assert made["notes"] == ["the second image stands beside the prompt, as adapter_image does"]
    none_here = client.post("/v1/images/generations", data={"prompt": "a"}, files=files).json()["error"]
    assert (none_here["param"], none_here["code"]) == ("image", "unknown_field")
