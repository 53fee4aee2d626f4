"""What release 0.1.0 left on disk: a model, a half-finished conversion, and stored conversions of a tiny checkpoint."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import httpx
import numpy as np
import pytest
from PIL import Image

import converter
import converter.conversion.plan
from converter.conversion.convert import write_model
from converter.conversion.plan import ConversionPlan
from converter.conversion.planning import make_plan
from converter.errors import CheckpointError, ManifestError
from converter.folder import ModelFolder
from converter.manifest import FORMAT
from converter.options import DEFAULT_OPTIONS, ConvertOptions
from converter.progress import Progress, ignore
from converter.sources.source import open_source
from server.events import EventLog
from server.models import library
from server.models.conversion import Conversion, ConversionFiles
from server.models.conversion_request import ConversionRequest
from server.models.conversions import Conversions
from server.models.installed import InstalledModels
from server.models.library import installed_from
from server.pipeline.denoising.denoiser import GeneratedImage
from server.pipeline.request import bind
from server.pipeline.stable_diffusion import StableDiffusion
from tests.support import fake_converter
from tests.support.live_server import answers, until

ARCHIVE = Path(__file__).parents[2] / "data" / "release-0.1.0.tar.xz"
#: The ids under which it stored the conversions.
PLAIN, FULL, BAD = "c63e8741a16616ff96a1", "0636b3ba7d4303510c59", "91aa7b634829be57325b"


@pytest.fixture
def left(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture
def same_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release whose packages are still those of 0.1.0."""
    for module in (converter.conversion.plan, library):
        monkeypatch.setattr(module, "REVISION", "0.1.0")


def plan(left: Path) -> ConversionPlan:
    return make_plan(open_source(left / "tiny"), ConvertOptions(name="tiny", verify=False))


def test_its_model_is_read_and_makes_images(left: Path) -> None:
    model = ModelFolder.open(left / "model")
    assert (model.manifest.format, model.manifest.options) == (FORMAT, DEFAULT_OPTIONS)
    request = bind(model.manifest, prompt="red", steps=1, seed=0)
    pixels = [
        event.pixels for event in StableDiffusion(model, {}).generate(request, {}) if isinstance(event, GeneratedImage)
    ]
    assert [p.shape for p in pixels] == [(64, 64, 3)]
    assert np.ptp(pixels[0]) > 0


@pytest.mark.slow
def test_its_model_is_served_as_it_is(left: Path) -> None:
    before = (left / "model" / "anemone.json").read_bytes()
    log = left / "log"
    command = [sys.executable, "-m", "server", "serve", "--port", "0", "--model", str(left / "model")]
    with log.open("w") as errors:
        process = subprocess.Popen([*command, "--data-dir", str(left / "served")], stderr=errors)
    try:
        url = until(lambda: re.search(r"http://[\d.]+:\d+", log.read_text())).group()
        with httpx.Client(base_url=url, timeout=120) as client:
            until(lambda: answers(client) and client.get("/readyz").status_code == 200, patience=120)
            answer = client.post("/api/v1/txt2img", json={"prompt": "red", "steps": 1, "seed": 0})
        assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
    finally:
        process.terminate()
        assert process.wait(timeout=60) in (0, -15)
    assert (left / "model" / "anemone.json").read_bytes() == before


def test_a_damaged_manifest_of_its_format_is_refused_as_one_of_today_is(left: Path) -> None:
    file = left / "model" / "anemone.json"
    whole = json.loads(file.read_text())
    for damage, words in (
        ({"format": 4}, "has format 4; this version reads 1 to 3"),
        ({"format": True}, "has format True"),
        ({"format": "1"}, "has format '1'"),
        ({"networks": 5}, "networks: "),
        ({"converter": 5}, "converter: "),
        ({"converter": {"anemone": 5, "coremltools": "9.0"}}, r"converter\.anemone: "),
        ({"sizes": []}, "sizes: "),
        ({"format": 2, "options": {"batches": "2"}}, r"options\.batches: "),
    ):
        file.write_text(json.dumps(whole | damage))
        with pytest.raises(ManifestError, match=words):
            ModelFolder.open(left / "model")
    file.write_text(json.dumps(whole | {"format": 2, "options": {"of_a_later_release": 1, "attention": "original"}}))
    assert ModelFolder.open(left / "model").manifest.options == ConvertOptions(attention="original")


def not_without_options(*_: object) -> NoReturn:
    raise CheckpointError("tiny has no vae")


def test_its_model_opens_but_is_not_current_since_packages_state_their_scales(left: Path) -> None:
    assert library.from_hub(left / "model", "tiny") is None
    assert not library.is_current(left / "tiny", left / "model")
    assert plan(left).fingerprint != ModelFolder.open(left / "model").manifest.plan


@pytest.mark.usefixtures("same_packages")
def test_its_model_is_that_of_the_same_plan_in_every_release_that_writes_the_same_packages(
    left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converter, "__version__", "0.2.0")
    source, progress = open_source(left / "tiny"), list[Progress]()
    for options in (ConvertOptions(name="tiny"), ConvertOptions(name="tiny", sizes=((64, 64),))):
        assert installed_from(source, left / "model", options, progress.append).path == left / "model"
    assert not progress
    with monkeypatch.context() as unplannable:
        unplannable.setattr(library, "make_plan", not_without_options)
        assert installed_from(source, left / "model", ConvertOptions(name="tiny"), ignore).path == left / "model"
        with pytest.raises(CheckpointError):
            installed_from(source, left / "model", ConvertOptions(attention="original"), ignore)


@pytest.mark.usefixtures("same_packages")
def test_its_half_finished_conversion_goes_on_after_the_networks_it_had_finished(left: Path) -> None:
    partial = left / ".out.partial"
    partial.mkdir()
    shutil.copy(left / "conversion.json", partial)
    model = ModelFolder.open(left / "model")
    finished = [package.path for n in ("text_encoder", "unet") for package in model.manifest.networks[n]]
    for path in finished:
        shutil.copytree(left / "model" / path, partial / path)
    files = {path: (partial / path / "Manifest.json").stat().st_ino for path in finished}
    made = write_model(plan(left), left / "out")
    assert {path: (made.path / path / "Manifest.json").stat().st_ino for path in finished} == files
    assert made.manifest.plan == model.manifest.plan
    assert made.manifest.options == ConvertOptions(name="tiny", verify=False)


def test_its_conversions_are_found_under_their_ids(left: Path) -> None:
    conversions = ConversionFiles(left / "data").read()
    assert conversions.keys() == {PLAIN, FULL, BAD}
    assert conversions[PLAIN] == Conversion(
        ConversionRequest("somebody/tiny@main", "tiny"), "succeeded", 1764000000.0, 1764000001.0, 1764000100.5, 1
    )
    assert conversions[FULL].request.options == ConvertOptions(
        prediction_type="v_prediction",
        sizes=((512, 512), (768, 512)),
        attention="original",
        batches=(1, 2),
        tokens=(77, 154),
        vae="somebody/vae@main",
        preview="somebody/taesd@main",
        safety_checker="somebody/checker@main",
        controlnets=("somebody/canny@main", "somebody/depth@main"),
        prompt_once=True,
        target="macOS15",
        functions=True,
    )
    assert conversions[BAD].error == ("not_converted", "somebody/bad is of an unknown architecture")


def test_a_conversion_that_it_was_at_goes_on_under_its_id(left: Path) -> None:
    data = left / "data"
    conversions = Conversions(data, InstalledModels(data), EventLog(), fake_converter.launcher(data))
    request = ConversionFiles(data).read()[FULL].request
    assert conversions.submit(request).id == FULL
    assert [c.id for c in conversions.all() if c.open] == [FULL]


@dataclass(frozen=True)
class LaterOptions(ConvertOptions):
    """The options of a later release."""

    bits: int = 16


def test_an_option_added_later_leaves_ids_as_they_are_where_it_is_not_used() -> None:
    request = ConversionRequest("somebody/tiny@main", "tiny", LaterOptions())
    assert request.id == PLAIN
    assert replace(request, options=LaterOptions(bits=6)).id != PLAIN


@pytest.mark.usefixtures("same_packages")
def test_an_option_added_later_leaves_the_plan_as_it_is_where_it_is_not_used(left: Path) -> None:
    now = plan(left)
    assert now.fingerprint == ModelFolder.open(left / "model").manifest.plan
    usual, used = (replace(now, options=LaterOptions(name="tiny", bits=bits)) for bits in (16, 6))
    assert usual.fingerprint == now.fingerprint != used.fingerprint
