"""Images are made, watched, cancelled and found again."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import Site

pytestmark = pytest.mark.slow  # a browser, and a server that converts and loads the bundled model


def generate(page: Page, prompt: str = "a red circle on a blue background", **fields: object) -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    for label, value in fields.items():
        page.get_by_label(label, exact=True).fill(str(value))
    page.get_by_role("button", name="Generate").click()


def cards(page: Page):
    return page.locator("#gallery button.card")


def test_an_image_is_made_and_shown_with_what_made_it(page: Page, site: Site) -> None:
    expect(page.get_by_text(re.compile(r"^\d+ / 75 tokens$"))).to_be_visible()
    generate(page, "a yellow star on a green background", Steps=4, Seed=7, Guidance=2.5)
    expect(cards(page)).to_have_count(1)
    job = site.newest()
    asked = {"prompt": "a yellow star on a green background", "steps": 4, "seed": 7, "guidance_scale": 2.5, "n": 1}
    assert (job["status"], job["task"]) == ("succeeded", "txt2img")
    assert {name: job["request"][name] for name in asked} == asked
    assert cards(page).locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 256
    cards(page).click()
    viewer = page.get_by_role("dialog", name="a yellow star on a green background")
    for line in ("Seed7", "Steps4", "Guidance scale2.5", "Size256 × 256"):
        expect(viewer.locator("dl > div").filter(has_text=re.compile(f"^{line}$"))).to_be_visible()


def test_progress_is_shown_until_the_job_is_cancelled(page: Page, site: Site) -> None:
    generate(page, Steps=150)
    expect(page.get_by_text(re.compile(r"^step \d+ of 150"))).to_be_visible()
    expect(page.get_by_role("progressbar").first).to_have_attribute("value", re.compile(r"0?\.\d+"))
    page.get_by_role("button", name="Cancel: a red circle").click()
    expect(page.locator("#queue")).to_have_count(0)
    assert site.newest()["status"] == "cancelled"
    expect(page.get_by_role("status").filter(has_text="The job is cancelled")).to_be_attached()


def test_jobs_wait_for_each_other_in_the_queue_which_every_browser_shows(
    site: Site, opened: Callable[..., Page]
) -> None:
    one, other = opened(site.url), opened(site.url)
    generate(one, "a green square", Steps=150, Images=2)
    generate(one, "a white heart", Steps=150)
    for page in (one, other):
        entries = page.locator("#queue li")
        expect(entries).to_have_count(2)
        expect(entries.nth(0)).to_contain_text("a green square")
        expect(entries.nth(1)).to_contain_text("1 ahead")
    other.get_by_role("button", name="Cancel all").click()
    other.get_by_role("button", name="Keep them").click()
    other.get_by_role("button", name="Cancel all").click()
    other.get_by_role("button", name=re.compile(r"^Cancel \d+ jobs$")).click()
    expect(one.locator("#queue")).to_have_count(0)


def test_a_job_is_found_again_after_a_reload(page: Page, site: Site) -> None:
    generate(page, "a purple ring", Steps=150)
    expect(page.locator("#queue li")).to_have_count(1)
    page.reload()
    expect(page.locator("#queue li")).to_contain_text("a purple ring")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a purple ring")
    expect(page.get_by_text(re.compile(r"^step \d+ of 150"))).to_be_visible()
    page.get_by_role("button", name="Cancel: a purple ring").click()
    expect(page.locator("#queue")).to_have_count(0)


def test_a_wrong_field_has_the_servers_sentence_beside_it_and_the_focus(page: Page) -> None:
    generate(page, Steps=999)
    steps = page.get_by_label("Steps", exact=True)
    expect(steps).to_be_focused()
    expect(steps).to_have_attribute("aria-invalid", "true")
    expect(steps).to_have_accessible_description("steps is 999; accepted: 1 to 150")
    generate(page, Steps=2)
    expect(cards(page)).to_have_count(1)
    expect(page.get_by_text("accepted: 1 to 150")).to_have_count(0)


def test_jobs_of_programs_are_in_the_gallery_and_can_be_made_again(page: Page, site: Site) -> None:
    fields = {"prompt": "a black cross on a yellow background", "steps": 3, "seed": 11, "width": 200, "height": 120}
    site.client.post("/api/v1/txt2img", json=fields)
    cards(page).click()
    page.get_by_role("button", name="Reuse settings").click()
    expect(page.get_by_label("Width in pixels")).to_have_value("200")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("11")
    page.get_by_role("button", name="Generate").click()
    expect(cards(page)).to_have_count(2)
    made, first = site.client.get("/api/v1/jobs").json()["jobs"]
    assert made["request"] == first["request"]
    images = [site.client.get(job["images"][0]["url"]).content for job in (made, first)]
    assert images[0] == images[1]


def test_a_deleted_image_is_gone_here_and_on_the_server(page: Page, site: Site) -> None:
    generate(page, Steps=2)
    cards(page).click()
    url = site.newest()["url"]
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("alert").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(cards(page)).to_have_count(0)
    assert site.client.get(url).status_code == 410


def test_a_number_that_is_none_is_told_and_not_left_out(page: Page, site: Site) -> None:
    steps = page.get_by_label("Steps", exact=True)
    steps.press_sequentially("1e")
    page.get_by_role("button", name="Generate").click()
    expect(steps).to_have_accessible_description("Steps: this is not a number")
    expect(steps).to_be_focused()
    assert site.client.get("/api/v1/jobs").json()["jobs"] == []


def test_a_prompt_of_thousands_of_letters_has_a_short_name_and_is_shown_whole(page: Page, site: Site) -> None:
    prompt = "دائرة حمراء\n" * 400
    site.client.post("/api/v1/txt2img", json={"prompt": prompt, "steps": 1})
    cards(page).click()
    viewer = page.get_by_role("dialog")
    assert len(viewer.get_attribute("aria-label") or "") < 300
    shown = viewer.locator(".prompt")
    assert shown.text_content() == prompt
    assert shown.evaluate("prompt => getComputedStyle(prompt).direction") == "rtl"


@pytest.mark.parametrize("stored", ["null", "{broken", '{"prompt": 5, "steps": ["x"]}'])
def test_the_page_opens_whatever_the_browser_has_stored(page: Page, stored: str) -> None:
    page.evaluate("stored => addEventListener('pagehide', () => localStorage.setItem('anemone.draft', stored))", stored)
    page.reload()
    assert page.evaluate("localStorage.getItem('anemone.draft')") == stored
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("")
