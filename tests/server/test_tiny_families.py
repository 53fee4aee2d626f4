"""Families that the bundled model is not of, over HTTP and in real worker processes: what capabilities say is what is made."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from converter.conversion.convert import convert
from converter.options import ConvertOptions
from server.jobs.local_worker import WorkerSettings, start_worker
from server.supervisor import spawn
from tests.support.checkpoints import tiny_unet, write_checkpoint, write_xl_checkpoint
from tests.support.image_files import encoded
from tests.support.live_server import live, over

pytestmark = pytest.mark.slow

IMAGE = encoded(Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)))
MASK = encoded(Image.fromarray(np.repeat(np.where(np.arange(64) < 32, 255, 0).astype(np.uint8)[None], 64, 0)))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server with tiny models: Stable Diffusion 2 (v prediction), one for inpainting, SDXL and its refiner."""
    data = tmp_path_factory.mktemp("families")
    sources = {
        "sd2": write_checkpoint(data / "sd2", prediction_type="v_prediction", text={"hidden_act": "gelu"}),
        "inpainting": write_checkpoint(data / "inpainting", unet=tiny_unet(in_channels=9)),
        "xl": write_xl_checkpoint(data / "xl"),
        "refiner": write_xl_checkpoint(data / "refiner", refiner=True),
    }
    for name, source in sources.items():
        convert(source, data / "models" / name, ConvertOptions(name=name, verify=False))
    launch = spawn(
        start_worker, WorkerSettings(data, {}, previews=False, memory_budget=None, precision="fp32"), name="worker"
    )
    with live(data, "sd2", launch=launch) as opened:
        yield opened


def made(client: httpx.Client, task: str, **fields: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Return an image's pixels and its job."""
    files = {name: fields.pop(name) for name in ("image", "mask") if name in fields}
    sent = {"prompt": "red", "steps": "3", "seed": "4", **fields}
    answer = client.post(f"/api/v1/{task}", files=files or {"prompt": (None, sent.pop("prompt"))}, data=sent)
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content))), over(client, answer.headers["x-job-id"])


def test_what_capabilities_announce_is_made(client: httpx.Client) -> None:
    models = {model["name"]: model for model in client.get("/api/v1/capabilities").json()["models"]}
    assert {name: (m["family"], m["prediction_type"], m["inpainting"]) for name, m in models.items()} == {
        "sd2": ("sd2", "v_prediction", False),
        "inpainting": ("sd1", "epsilon", True),
        "xl": ("sdxl", "epsilon", False),
        "refiner": ("sdxl_refiner", "epsilon", False),
    }
    files = {"img2img": {"image": IMAGE}, "inpaint": {"image": IMAGE, "mask": MASK}, "variations": {"image": IMAGE}}
    extras = {"outpaint": {"image": IMAGE, "extend_left": "16"}}
    for name, model in models.items():
        for task, ability in model["tasks"].items():
            assert ability == {"available": True, "needs": None}
            pixels, job = made(client, task, model=name, **files.get(task, {}), **extras.get(task, {}))
            assert (job["task"], job["model"]) == (task, name)
            assert pixels.shape == (64, 80 if task == "outpaint" else 64, 3)
            assert pixels.std() > 5


def test_a_refiner_is_loaded_beside_the_model_and_changes_the_image(client: httpx.Client) -> None:
    assert client.get("/api/v1/capabilities").json()["models"][-1]["refiners"] == ["refiner"]
    plain, _ = made(client, "txt2img", model="xl")
    refined, job = made(client, "txt2img", model="xl", refiner="refiner", refiner_switch="0.4")
    assert job["request"]["refiner"] == "refiner"
    assert np.abs(plain.astype(int) - refined).mean() > 1
    again, _ = made(client, "txt2img", model="xl")
    np.testing.assert_array_equal(plain, again)


def test_a_model_that_a_refined_job_needs_is_not_deleted(client: httpx.Client) -> None:
    sent = {"prompt": "red", "model": "xl", "refiner": "refiner", "steps": 100}
    job = client.post("/api/v1/txt2img", json=sent, headers={"Prefer": "respond-async"}).json()
    assert client.delete("/api/v1/models/refiner").status_code == 409
    assert client.delete(job["url"]).status_code == 200
    assert over(client, job["id"])["status"] == "cancelled"
