"""LoRAs and embeddings are added, chosen with a weight, put into prompts, and brought back with an image's settings."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect
from safetensors.numpy import save

from tests.page.test_accessibility import PHONE, found
from tests.support.addons import lora_bytes
from tests.support.live_server import over

pytestmark = pytest.mark.slow  # a browser

DROP = """bytes => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "toy.safetensors"));
  document.querySelector("main").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def upload(page: Page, name: str, content: bytes) -> None:
    file = {"name": f"{name}.safetensors", "mimeType": "application/octet-stream", "buffer": content}
    page.locator("#addon-file").set_input_files(file)


def test_a_lora_is_added_weighted_used_and_brought_back(fake: httpx.Client, opened: Callable[..., Page]) -> None:
    page = opened(str(fake.base_url), color_scheme="dark", **PHONE)
    page.get_by_text("LoRAs and embeddings").first.click()
    upload(page, "film", lora_bytes(metadata={"modelspec.trigger_phrase": "film grain"}))
    upload(page, "large", lora_bytes(2048))
    page.get_by_label("Add a LoRA").select_option("film")
    expect(page.get_by_role("option", name="large (for sdxl, and fake is sd1)")).to_be_disabled()
    page.get_by_text("Not for this model").click()
    expect(page.get_by_text("large: for sdxl, and fake is sd1")).to_be_visible()
    page.get_by_role("spinbutton", name="Weight of film").fill("0.75")
    expect(page.get_by_role("slider", name="Weight of film")).to_have_value("0.75")
    page.get_by_label("Prompt", exact=True).fill("a harbor")
    page.get_by_role("button", name="film grain").click()
    page.evaluate(DROP, list(save({"emb_params": np.ones((2, 768), np.float32)})))
    page.get_by_role("button", name="Put toy into what is not in the image").click()
    assert found(page) == []
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#gallery button.card")).to_have_count(1)
    (job,) = fake.get("/api/v1/jobs").json()["jobs"]
    request = over(fake, job["id"])["request"]
    assert (request["prompt"], request["negative_prompt"]) == ("a harbor, film grain", "toy")
    assert request["loras"] == [{"name": "film", "weight": 0.75}]
    page.get_by_role("button", name="Remove the LoRA film").click()
    page.locator("#gallery button.card").click()
    expect(page.locator("dl > div").filter(has_text="LoRAsfilm 0.75")).to_be_visible()
    page.get_by_role("button", name="Reuse settings").click()
    expect(page.get_by_role("spinbutton", name="Weight of film")).to_have_value("0.75")


def test_a_file_that_cannot_be_used_is_told(fake: httpx.Client, opened: Callable[..., Page]) -> None:
    page = opened(str(fake.base_url))
    page.get_by_text("LoRAs and embeddings").first.click()
    upload(page, "other", save({"some.weight": np.ones(3, np.float32), "a": np.ones(1, np.float32)}))
    expect(page.get_by_role("alert").filter(has_text="other.safetensors is not usable as a LoRA")).to_be_visible()
