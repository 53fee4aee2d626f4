"""Images are changed, painted on, extended and enlarged."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.page.conftest import Site
from tests.support.image_files import encoded
from tests.support.live_server import until

pytestmark = pytest.mark.slow  # a browser, and a server that converts and loads the bundled model

#: Drops or pastes a file, as a browser tells a page of it.
_DROP = """([kind, data, type]) => {
    const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "dropped", { type }));
    const how = { bubbles: true, cancelable: true };
    const event = kind === "paste"
        ? new ClipboardEvent("paste", { clipboardData: transfer, ...how })
        : new DragEvent("drop", { dataTransfer: transfer, ...how });
    document.querySelector("main").dispatchEvent(event);
}"""


def png(color: str = "blue", size: tuple[int, int] = (256, 256)) -> bytes:
    return encoded(Image.new("RGB", size, color))


def choose(page: Page, data: bytes) -> None:
    page.locator("#image").set_input_files({"name": "chosen.png", "mimeType": "image/png", "buffer": data})
    expect(page.get_by_text("Starting from this image")).to_be_visible()


def made(page: Page, site: Site, *, count: int = 1) -> dict[str, Any]:
    """Generate, and return the job once its image is in the gallery."""
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#gallery button.card")).to_have_count(count)
    return site.newest()


def pixels(site: Site, job: dict[str, Any]) -> np.ndarray:
    data = site.client.get(job["images"][0]["url"]).content
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int16)


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_image_that_is_dropped_or_pasted_anywhere_is_where_the_next_one_starts(
    page: Page, site: Site, kind: str
) -> None:
    page.evaluate(_DROP, [kind, base64.b64encode(png("red")).decode(), "image/png"])
    expect(page.get_by_text("Starting from this image")).to_be_visible()
    page.get_by_label("Strength", exact=True).fill("0.1")
    job = made(page, site)
    assert (job["task"], job["request"]["strength"]) == ("img2img", 0.1)
    red = pixels(site, job).mean((0, 1))
    assert red[0] > red[1] + 80
    assert red[0] > red[2] + 80


@pytest.mark.parametrize("kind", ["image/png", "application/pdf"])
def test_what_is_no_image_is_refused_with_what_is(page: Page, kind: str) -> None:
    page.evaluate(_DROP, ["drop", base64.b64encode(b"not an image").decode(), kind])
    expect(page.get_by_role("alert").filter(has_text="accepted: PNG, JPEG, WebP and GIF")).to_be_visible()


def test_what_only_the_browser_reads_is_drawn_for_the_server(page: Page, site: Site) -> None:
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><script>throw 1</script></svg>'
    page.evaluate(_DROP, ["drop", base64.b64encode(drawing).decode(), "image/svg+xml"])
    expect(page.get_by_text("64 × 64", exact=True)).to_be_visible()
    page.get_by_label("Steps", exact=True).fill("4")
    assert made(page, site)["status"] == "succeeded"


def test_an_image_that_the_server_finds_too_large_is_made_smaller(page: Page) -> None:
    choose(page, png(size=(9000, 20)))
    expect(page.get_by_text("8192 × 18, made smaller, from 9000 × 20")).to_be_visible()


def test_a_text_is_dragged_from_one_prompt_to_the_other(page: Page) -> None:
    prompt, other = page.get_by_label("Prompt", exact=True), page.get_by_label("Not in the image", exact=True)
    prompt.fill("word")
    prompt.select_text()
    box = prompt.bounding_box()
    to = other.bounding_box()
    assert box is not None
    assert to is not None
    page.mouse.move(box["x"] + 20, box["y"] + 18)
    page.mouse.down()
    page.mouse.move(box["x"] + 40, box["y"] + 30, steps=4)
    page.mouse.move(to["x"] + 40, to["y"] + 15, steps=4)
    page.mouse.up()
    expect(other).to_have_value("word")


def test_without_a_prompt_an_image_is_varied(page: Page, site: Site) -> None:
    choose(page, png())
    page.get_by_label("Prompt", exact=True).fill("")
    page.get_by_label("Steps", exact=True).fill("4")
    assert made(page, site)["task"] == "variations"


def test_only_what_is_painted_over_is_made_anew(page: Page, site: Site) -> None:
    site.client.post("/api/v1/txt2img", json={"prompt": "a red circle on a blue background", "seed": 7})
    before = pixels(site, site.newest())
    page.locator("#gallery button.card").click()
    page.get_by_role("button", name="Paint a part").click()
    canvas = page.get_by_role("application").bounding_box()
    assert canvas is not None
    x, y = canvas["x"] + canvas["width"] / 4, canvas["y"] + canvas["height"] / 2
    page.mouse.move(x, y - 80)
    page.mouse.down()
    page.mouse.move(x, y + 80, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Done").click()
    page.get_by_label("Prompt", exact=True).fill("a yellow star on a black background")
    page.get_by_label("Seed", exact=True).fill("0")  # with 3 of 12 seeds, a tenth is as blue as it was, to the level
    job = made(page, site, count=2)
    assert job["task"] == "inpaint"
    assert job["notes"] == []  # the mask is as large as the image
    changed = np.abs(pixels(site, job) - before).max(2)
    assert changed[:, 128:].max() == 0
    assert (changed[96:160, 54:74] > 0).mean() > 0.9


def test_strokes_are_undone_inverted_and_painted_with_the_keyboard(page: Page) -> None:
    choose(page, png(size=(64, 64)))
    page.get_by_role("radio", name="Paint a part").check()
    canvas = page.get_by_role("application")

    def painted() -> int:
        return int(
            canvas.evaluate(
                "each => [...each.getContext('2d').getImageData(0, 0, 64, 64).data].filter((v, i) => i % 4 == 3 && v > 127).length"
            )
        )

    assert painted() == 0
    canvas.focus()
    for key in ("Space", "ArrowRight", "ArrowRight", "Space", "ArrowDown"):
        page.keyboard.press(key)
    stroke = painted()
    assert stroke > 50
    page.get_by_role("button", name="Invert").click()
    assert painted() == 64 * 64 - stroke
    page.get_by_role("button", name="Undo").click()
    assert painted() == stroke
    page.get_by_role("button", name="Clear").click()
    assert painted() == 0
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("Paint the part of the image that is to be painted again")).to_be_visible()


def test_handles_say_how_much_is_added(page: Page, site: Site) -> None:
    choose(page, png())
    page.get_by_role("radio", name="Extend").check()
    handle = page.get_by_role("slider", name="Extend at the right")
    box = handle.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + box["height"] / 2, steps=3)
    page.mouse.up()
    pulled = int(str(handle.get_attribute("aria-valuenow")))
    assert pulled > 0
    handle.press("ArrowRight")
    page.get_by_role("slider", name="Extend at the top").press("ArrowUp")
    page.get_by_label("Steps", exact=True).fill("3")
    job = made(page, site)
    assert (job["task"], job["size"]) == ("outpaint", {"width": 256 + pulled + 8, "height": 256 + 8})


def test_an_image_of_the_gallery_is_enlarged(page: Page, site: Site) -> None:
    site.client.post("/api/v1/txt2img", json={"prompt": "a red circle", "steps": 2})
    page.locator("#gallery button.card").click()
    page.get_by_label("Upscaler").select_option("shapes-2x")
    page.get_by_role("button", name="Upscale").click()
    expect(page.locator("#gallery button.card")).to_have_count(2)
    job = site.newest()
    assert (job["task"], job["size"]) == ("upscale", {"width": 512, "height": 512})


def test_a_control_map_is_shown_and_used(page: Page, site: Site) -> None:
    page.get_by_text("More", exact=True).click()
    page.get_by_role("button", name="Add a control map").click()
    page.locator(".control input[type=file]").set_input_files("docs/images/drawing.png")
    page.get_by_role("button", name="Show the map").click()
    expect(page.get_by_alt_text("What canny makes of the image")).to_be_visible()
    page.get_by_label("Weight").fill("9")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert").filter(has_text="controls.0.weight is 9; accepted: 0 to 2").first).to_be_visible()
    page.get_by_label("Weight").fill("0.8")
    page.get_by_label("Steps", exact=True).fill("3")
    job = made(page, site)
    (control,) = job["request"]["controls"]
    assert (control["preprocessor"], control["weight"]) == ("canny", 0.8)


def test_a_second_pass_and_other_fields_are_sent(page: Page, site: Site) -> None:
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Times as large").fill("2")
    page.get_by_label("Steps", exact=True).fill("2")
    page.get_by_label("Random numbers").select_option("numpy")
    page.get_by_label("Scheduler").select_option("dpm++_2m")
    page.get_by_label("Noise levels").select_option("karras")
    job = made(page, site)
    assert job["size"] == {"width": 512, "height": 512}
    sent = {"hires_scale": 2.0, "rng": "numpy", "scheduler": "dpm++_2m", "sigmas": "karras"}
    assert {name: job["request"][name] for name in sent} == sent


def test_two_images_are_compared(page: Page, site: Site) -> None:
    for seed in (1, 2, 3):
        site.client.post("/api/v1/txt2img", json={"prompt": "a red circle", "steps": 1, "seed": seed})
    until(lambda: page.locator("#gallery button.card").count() == 3)
    page.locator("#gallery button.card").first.click()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("3 | 2", exact=True)).to_be_visible()
    page.get_by_role("button", name="Older").click()
    expect(page.get_by_text("3 | 1", exact=True)).to_be_visible()
    page.get_by_role("slider").fill("25")
    assert page.locator(".pair").evaluate("pair => pair.style.getPropertyValue('--divided')") == "25%"


def test_an_image_of_the_gallery_is_dragged_to_where_the_next_one_starts(page: Page, site: Site) -> None:
    site.client.post("/api/v1/txt2img", json={"prompt": "a red circle", "steps": 2, "seed": 3})
    before = pixels(site, site.newest())
    page.locator("#gallery button.card img").drag_to(page.get_by_text("Start from an image"))
    expect(page.get_by_text("Starting from this image")).to_be_visible()
    taken = page.locator(".image-input img").evaluate(
        """image => {
            const on = new OffscreenCanvas(256, 256).getContext("2d");
            on.drawImage(image, 0, 0);
            return [...on.getImageData(0, 0, 256, 256).data];
        }"""
    )
    exact = np.asarray(taken, np.int16).reshape(256, 256, 4)[..., :3]
    assert np.array_equal(exact, before)  # and not the card's smaller file


def test_fields_are_emptied_but_for_the_prompts(page: Page) -> None:
    page.get_by_label("Prompt", exact=True).fill("a green ring")
    page.get_by_label("Steps", exact=True).fill("9")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Random numbers").select_option("numpy")
    page.get_by_role("button", name="Empty all fields but the prompts").click()
    expect(page.get_by_label("Steps", exact=True)).to_have_value("")
    expect(page.get_by_label("Random numbers")).to_have_value("")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a green ring")


def test_a_tap_is_a_dot_a_second_finger_paints_nothing_and_the_mask_is_kept(
    site: Site, opened: Callable[..., Page]
) -> None:
    page = opened(site.url, width=390, height=844, has_touch=True)
    choose(page, png(size=(64, 64)))
    page.get_by_role("radio", name="Paint a part").check()
    canvas = page.get_by_role("application")
    box = canvas.bounding_box()
    assert box is not None
    fingers = page.context.new_cdp_session(page)

    def touch(kind: str, *places: float) -> None:
        points = [
            {"x": box["x"] + place * box["width"], "y": box["y"] + place * box["height"], "id": finger}
            for finger, place in enumerate(places)
        ]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def is_painted(place: float) -> bool:
        at = int(place * 64)
        return bool(canvas.evaluate("(each, at) => each.getContext('2d').getImageData(at, at, 1, 1).data[3] > 0", at))

    touch("touchStart", 0.2)
    touch("touchStart", 0.2, 0.9)
    touch("touchMove", 0.2, 0.8)
    touch("touchEnd")
    until(lambda: is_painted(0.2))
    assert not is_painted(0.5)
    assert not is_painted(0.9)
    page.get_by_role("button", name="Done").click()
    page.get_by_role("radio", name="Extend").check()
    page.get_by_role("radio", name="Paint a part").check()
    page.get_by_role("button", name="Change the mask").click()
    assert is_painted(0.2)


def test_an_image_that_says_how_it_was_made_gives_its_settings_to_the_form(page: Page, site: Site) -> None:
    asked = {"prompt": "a red circle, small", "negative_prompt": "blue", "seed": 12, "steps": 3, "sigmas": "karras"}
    sent = site.client.post("/api/v1/txt2img", json=asked)
    choose(page, sent.content)
    page.get_by_role("button", name="Use the settings that made this image").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red circle, small")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("12")
    expect(page.get_by_text("Starting from this image")).to_have_count(0)
    again = made(page, site, count=2)
    assert site.client.get(again["images"][0]["url"]).content == sent.content
