"""The page with a keyboard alone, with a screen reader, on a phone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect

from tests.page.conftest import Site
from tests.support.image_files import encoded
from tests.support.live_server import enqueue

pytestmark = pytest.mark.slow  # a browser, and a server that converts and loads the bundled model

PHONE = {"width": 360, "height": 740, "has_touch": True}


def found(page: Page) -> list[str]:
    """Return what axe-core finds."""
    violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{each['id']}: {node['html'][:200]}: {node['failureSummary']}" for each in violations for node in each["nodes"]
    ]


def picture(page: Page) -> None:
    file = encoded(Image.new("RGB", (64, 64), "red"))
    page.locator("#image").set_input_files({"name": "red.png", "mimeType": "image/png", "buffer": file})


@pytest.mark.parametrize("colors", ["light", "dark"])
@pytest.mark.parametrize("screen", [{}, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_anywhere(
    site: Site, opened: Callable[..., Page], colors: str, screen: dict[str, object]
) -> None:
    site.client.post("/api/v1/txt2img", json={"prompt": "a red circle", "steps": 1})
    enqueue(site.client, "a star", steps=150, n=4)
    page = opened(site.url, color_scheme=colors, **screen)
    picture(page)
    closed = page.locator("details:not([open]) > summary")
    while closed.count() > 0:
        closed.first.click()
    page.get_by_role("button", name="Add a control map").click()
    page.get_by_role("radio", name="Extend").check()
    assert found(page) == []
    page.get_by_role("radio", name="Paint a part").check()
    expect(page.get_by_role("application")).to_be_visible()
    assert found(page) == []
    page.keyboard.press("Escape")
    for name in ("Models", "Settings"):
        page.get_by_role("button", name=name).click()
        expect(page.get_by_role("dialog", name=name)).to_be_visible()
        assert found(page) == []
        page.keyboard.press("Escape")
    page.locator("#gallery button.card").first.click()
    page.get_by_role("button", name="Delete", exact=True).click()
    assert found(page) == []


def test_an_image_is_made_seen_and_left_with_the_keyboard_alone(page: Page, site: Site) -> None:
    for seed in (1, 2):
        site.client.post("/api/v1/txt2img", json={"prompt": f"a circle {seed}", "steps": 1, "seed": seed})
    expect(page.locator("#gallery button.card")).to_have_count(2)

    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"the keyboard does not reach {selector}")

    tab_to("#prompt")
    page.keyboard.press("Control+a")
    page.keyboard.type("a white square")
    tab_to("#steps")
    page.keyboard.type("2")
    tab_to("#form button[type=submit]")
    page.keyboard.press("Enter")
    expect(page.locator("#gallery button.card")).to_have_count(3)
    tab_to("#gallery button.card")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog", name="a white square")
    expect(viewer).to_be_visible()
    for key, prompt in (("ArrowRight", "a circle 2"), ("ArrowRight", "a circle 1"), ("ArrowLeft", "a circle 2")):
        page.keyboard.press(key)
        expect(page.get_by_role("dialog", name=prompt)).to_be_visible()
    for _ in range(40):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
        )
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.evaluate("document.activeElement.matches('#gallery button.card')")


def test_nothing_is_wider_than_a_small_phone(site: Site, opened: Callable[..., Page]) -> None:
    site.client.post("/api/v1/txt2img", json={"prompt": "unbroken" * 30, "steps": 1})
    page = opened(site.url, **PHONE)
    picture(page)
    page.get_by_role("radio", name="Extend").check()

    def fits() -> bool:
        return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))

    assert fits()
    page.locator("#gallery button.card").first.click()
    dialog = page.get_by_role("dialog").locator(".sheet")
    assert dialog.evaluate("sheet => sheet.scrollWidth <= sheet.clientWidth")
    assert fits()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Models").click()
    assert dialog.evaluate("sheet => sheet.scrollWidth <= sheet.clientWidth")
    page.keyboard.press("Escape")
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    assert fits()


def test_what_has_the_focus_is_never_below_the_button_that_stays(page: Page) -> None:
    picture(page)
    page.get_by_role("radio", name="Extend").check()
    page.get_by_label("Prompt", exact=True).focus()
    hidden = """() => {
        const [focused, button] = [document.activeElement, document.querySelector(".go")];
        if (button.contains(focused)) return null;
        return focused.getBoundingClientRect().bottom > button.getBoundingClientRect().top + 8 ? focused.outerHTML : "";
    }"""
    found = []
    while (covered := page.evaluate(hidden)) is not None:
        found.append(covered)
        page.keyboard.press("Tab")
    assert len(found) > 15
    assert set(found) == {""}


def test_little_moves_where_less_motion_is_asked_for(site: Site, opened: Callable[..., Page]) -> None:
    enqueue(site.client, "a star", steps=150)
    page = opened(site.url, reduced_motion="reduce")
    expect(page.locator(".place.now")).to_be_visible()
    assert page.evaluate("document.getAnimations().length") == 0
