"""What other browsers and programs do while a page is open, or asleep."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from playwright.sync_api import Page, Route, expect

from tests.support.live_server import enqueue, over


def test_what_was_made_while_the_browser_slept_is_all_there(fake: httpx.Client, opened: Callable[..., Page]) -> None:
    over(fake, enqueue(fake, "before", steps=1)["id"])
    page = opened(str(fake.base_url))
    cards = page.locator("#gallery button.card")
    expect(cards).to_have_count(1)
    page.context.set_offline(True)
    made = [enqueue(fake, f"meanwhile {number}", steps=1) for number in range(65)]
    over(fake, made[-1]["id"])
    page.context.set_offline(False)
    expect(cards).to_have_count(1 + len(made))


def test_an_image_that_was_deleted_elsewhere_is_forgotten_when_it_cannot_be_shown(
    fake: httpx.Client, opened: Callable[..., Page]
) -> None:
    made = [enqueue(fake, f"deleted {number}", steps=1) for number in range(2)]
    over(fake, made[-1]["id"])
    page = opened(str(fake.base_url))
    card = page.get_by_role("button", name="deleted 0", exact=True)
    expect(card.get_by_role("img")).to_have_js_property("naturalWidth", 64)
    page.route("**/api/v1/jobs?*", lambda route: route.abort())  # the list would tell it, too
    fake.delete(f"{made[0]['url']}/images")
    card.click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(card).to_have_count(0)
    expect(page.get_by_role("button", name="deleted 1", exact=True)).to_be_visible()


def test_an_image_that_could_not_be_read_for_a_while_is_shown_after_all(
    fake: httpx.Client, opened: Callable[..., Page]
) -> None:
    job = enqueue(fake, "read again", steps=1)
    over(fake, job["id"])
    page = opened(str(fake.base_url))
    refusals = iter([503, 429])

    def refuse(route: Route) -> None:
        status = next(refusals, None)
        route.continue_() if status is None else route.fulfill(status=status)

    page.route(f"**{job['url']}/images/0?*", refuse)
    page.reload()
    image = page.get_by_role("button", name="read again", exact=True).get_by_role("img")
    expect(image).to_have_js_property("naturalWidth", 64)
