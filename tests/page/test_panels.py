"""The models, the key, and a server that is away for a while."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.page.conftest import Site
from tests.support.live_server import enqueue, over

pytestmark = pytest.mark.slow  # a browser, and a server that converts and loads the bundled model

KEY = "the-key-of-a-household"


@pytest.fixture(scope="module")
def keyed(browser: Browser, bundled_folder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with a key of its own, which may be stopped."""
    site = Site(tmp_path_factory.mktemp("keyed") / "data", bundled_folder.path, KEY)
    site.start()
    yield site
    site.close()


def log_in(page: Page, key: str = KEY) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Log in").click()


def test_a_wrong_key_is_told_and_the_right_one_opens_everything(keyed: Site, opened: Callable[..., Page]) -> None:
    page = opened(keyed.url)
    log_in(page, "another-key")
    expect(page.get_by_role("alert").filter(has_text="the API key is wrong")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_label("API key")).to_be_visible()  # nothing works without it
    log_in(page)
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_label("Steps", exact=True).fill("2")
    page.get_by_role("button", name="Generate").click()
    image = page.locator("#gallery button.card img")
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 256
    page.reload()
    expect(image).to_be_visible()
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    expect(image).to_have_count(0)


def test_a_login_in_another_tab_is_this_ones_too(keyed: Site, opened: Callable[..., Page]) -> None:
    one = opened(keyed.url)
    other = one.context.new_page()
    other.goto(keyed.url)
    expect(one.get_by_label("API key")).to_be_visible()
    log_in(other)
    for page in (other, one):
        expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_server_that_restarts_is_waited_for_and_its_jobs_go_on(keyed: Site, opened: Callable[..., Page]) -> None:
    page = opened(keyed.url)
    log_in(page)
    expect(page.get_by_role("dialog")).to_have_count(0)  # behind it nothing can be typed
    page.get_by_label("Prompt", exact=True).fill("a white triangle")
    page.get_by_label("Steps", exact=True).fill("50")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#queue li")).to_contain_text("a white triangle")
    keyed.stop()
    expect(page.get_by_text("The server does not answer; trying again")).to_be_visible()
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert").filter(has_text=re.compile("^The server does not answer$"))).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a white triangle")
    keyed.start()
    expect(page.get_by_text("trying again")).to_have_count(0)
    job = keyed.newest()
    assert (job["status"], job["request"]["prompt"]) == ("succeeded", "a white triangle")
    expect(page.get_by_role("img", name="a white triangle")).to_be_visible()


def test_models_are_unloaded_loaded_and_told_why_they_cannot_be_fetched(page: Page, site: Site) -> None:
    page.get_by_role("button", name="Models").click()
    panel = page.get_by_role("dialog", name="Models")
    model = panel.get_by_role("listitem").filter(has_text="256 × 256")
    expect(model).to_contain_text("loaded")
    model.get_by_role("button", name=re.compile("^Unload")).click()
    expect(model.get_by_role("button", name=re.compile("^Load"))).to_be_visible()
    model.get_by_role("button", name=re.compile("^Load")).click()
    expect(model.get_by_role("button", name=re.compile("^Unload"))).to_be_visible()
    panel.get_by_label("Source").fill("no such checkpoint")
    panel.get_by_role("button", name="Download and convert").click()
    expect(panel.get_by_role("alert")).to_contain_text("source")
    assert site.client.get("/api/v1/models/conversions").json() == {"conversions": []}


def test_the_colors_are_the_systems_unless_they_are_chosen(site: Site, opened: Callable[..., Page]) -> None:
    def brightness(page: Page) -> int:
        return int(re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0])

    page = opened(site.url, color_scheme="dark")
    assert brightness(page) < 40
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("radio", name="Light").check()
    assert brightness(page) > 215
    page.reload()
    assert brightness(page) > 215


def test_a_model_is_converted_used_and_deleted(fake: httpx.Client, opened: Callable[..., Page]) -> None:
    page = opened(str(fake.base_url))
    page.get_by_role("button", name="Models").click()
    panel = page.get_by_role("dialog", name="Models")

    def convert(source: str, name: str) -> None:
        panel.get_by_label("Source").fill(source)
        panel.get_by_label("Name").fill(name)
        panel.get_by_role("button", name="Download and convert").click()

    convert("somebody/slow", "abandoned")
    expect(panel.get_by_text("converting unet")).to_be_visible()
    panel.get_by_role("button", name="Cancel the conversion of abandoned").click()
    expect(panel.get_by_text("abandoned")).to_have_count(0)
    convert("somebody/bad", "impossible")
    expect(panel.get_by_text("is of an unknown architecture")).to_be_visible()
    convert("somebody/steady", "another")
    expect(panel.get_by_role("button", name="Delete another")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_label("Model", exact=True).select_option("another")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#gallery button.card")).to_have_count(1)
    (job,) = fake.get("/api/v1/jobs").json()["jobs"]
    assert job["model"] == "another"
    page.get_by_role("button", name="Models").click()
    panel.get_by_role("button", name="Delete another").click()
    panel.get_by_role("button", name=re.compile("for good$")).click()
    expect(panel.get_by_text("another")).to_have_count(0)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Generate").click()  # by the default model, since that one is gone
    expect(page.locator("#gallery button.card")).to_have_count(2)


def test_a_failed_job_says_why_and_is_removed(fake: httpx.Client, opened: Callable[..., Page]) -> None:
    page = opened(str(fake.base_url))
    page.get_by_label("Prompt", exact=True).fill("fail")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("the UNet's output is not finite", exact=True)).to_be_visible()
    page.get_by_role("button", name="Remove the failed job: fail").click()
    expect(page.get_by_text("It failed")).to_have_count(0)


def test_more_than_a_page_of_images_is_read_as_the_end_comes_into_view(
    fake: httpx.Client, opened: Callable[..., Page]
) -> None:
    made = [enqueue(fake, f"<b>image</b> {number}", steps=1) for number in range(70)]
    over(fake, made[-1]["id"])
    page = opened(str(fake.base_url))
    cards = page.locator("#gallery button.card")
    expect(cards.first).to_be_visible()
    while page.get_by_role("button", name="Older images").count():
        page.locator(".results").evaluate("results => results.scrollTo(0, results.scrollHeight)")
    expect(page.get_by_role("button", name="<b>image</b> 0", exact=True)).to_be_attached()
    assert cards.count() >= len(made)
