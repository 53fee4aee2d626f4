"""The wheel, built and installed, used from a folder that has no checkout."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from converter import __version__
from tests.support.live_server import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_ROOT = Path(__file__).resolve().parent.parent
_COMPILER = shutil.which("cc")
_BUILT = shutil.ignore_patterns("*.so", "__pycache__")


def _copied_by_docker() -> list[str]:
    """The files and folders that Dockerfile.convert builds the wheel of, all of which .dockerignore lets in."""
    build, _, _ = (_ROOT / "Dockerfile.convert").read_text().partition("RUN pip wheel")
    names = [name for line in re.findall(r"^COPY (.+)$", build, re.MULTILINE) for name in line.split()[:-1]]
    let_in = re.findall(r"^!(.+)$", (_ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert set(names) == set(let_in)
    return names


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what Dockerfile.convert copies, built beside it, so that no build folder stays in the tree."""
    source = tmp_path_factory.mktemp("source")
    for name in _copied_by_docker():
        if (_ROOT / name).is_dir():
            shutil.copytree(_ROOT / name, source / name, symlinks=True, ignore=_BUILT)
        else:
            shutil.copy(_ROOT / name, source)
    out = source / "out"
    with pytest.MonkeyPatch.context() as patch:
        if _COMPILER is not None:
            patch.setenv("CC", str(_hasty(source / "cc")))
        _pip("wheel", str(source), "--no-build-isolation", "--wheel-dir", str(out))
    (built,) = out.glob("*.whl")
    return built


def _hasty(script: Path) -> Path:
    """A C compiler that optimizes nothing: it takes 2 s for the kernels, not 30."""
    script.write_text(f'#!/bin/sh\nexec {_COMPILER} "$@" -O0\n')
    script.chmod(0o755)
    return script


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    _pip("install", str(wheel), "--target", str(folder))
    return folder


def _pip(command: str, *arguments: str) -> None:
    # Offline: what the wheel depends on is what these tests run with.
    pip = [sys.executable, "-m", "pip", "--quiet", command, "--no-deps", "--no-index", *arguments]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def anemone(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The installed command; run from a folder of its own."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.chdir(tmp_path)
    return [sys.executable, str(installed / "bin" / "anemone")]


@pytest.fixture
def serving(anemone: list[str], tmp_path: Path) -> Iterator[httpx.Client]:
    said, data = tmp_path / "said", ["--data-dir", str(tmp_path / "data")]
    # Converts the bundled model too, and unlike the server's conversion not with the lowest priority, which takes minutes
    # where other tests run beside.
    first = subprocess.run(
        [*anemone, "generate", "a green star", "--steps", "1", *data], capture_output=True, text=True
    )
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "out.png").is_file()
    command = [*anemone, "serve", "--port", "0", *data]
    with said.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            port = until(lambda: process.poll() is not None or re.search(r"http\S+:(\d+)", said.read_text()))
            assert process.poll() is None, said.read_text()
            with httpx.Client(base_url=f"http://127.0.0.1:{port[1]}", trust_env=False, timeout=60) as client:
                yield client
        finally:
            process.terminate()


def _is_ready(client: httpx.Client) -> bool:
    try:
        reply = client.get("/readyz")
    except httpx.TransportError:
        return False
    assert reply.json()["state"] != "failed", reply.text
    return reply.status_code == 200


def test_the_wheel_has_every_module_the_types_and_what_is_bundled_and_no_training(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(_ROOT)) for top in ("converter", "server") for path in (_ROOT / top).rglob("*.py")}
    # Links to folders of demo/ in a checkout, which rglob does not follow.
    bundled = {
        str(link.relative_to(_ROOT) / path.relative_to(link.resolve()))
        for link in (_ROOT / "server" / "data").iterdir()
        for path in link.resolve().rglob("*")
        if path.is_file()
    }
    assert len(bundled) > 10
    assert modules | bundled | {"converter/py.typed", "server/py.typed"} <= names
    kernels = [name for name in names if name.startswith("converter/runtime/fast/_kernels_portable.")]
    assert len(kernels) == (_COMPILER is not None)
    assert {name.partition("/")[0] for name in names} == {"converter", "server", f"anemone-{__version__}.dist-info"}


def test_the_installed_command_runs_the_installed_code(anemone: list[str], installed: Path) -> None:
    where = subprocess.run(
        [sys.executable, "-c", "import converter, server; print(converter.__file__, server.__file__)"],
        capture_output=True, text=True, check=True, env=os.environ,
    ).stdout.split()  # fmt: skip
    assert all(Path(file).is_relative_to(installed) for file in where)
    version = subprocess.run([*anemone, "--version"], capture_output=True, text=True, check=True).stdout
    assert version.startswith(f"anemone {__version__}")


@pytest.mark.timeout(900)  # building the wheel and converting the model took minutes on cores that others used
def test_the_installed_server_makes_an_image_with_the_bundled_model(serving: httpx.Client) -> None:
    until(lambda: _is_ready(serving), patience=600)
    reply = serving.post("/api/v1/txt2img", json={"prompt": "a red circle on a blue background", "seed": 7, "steps": 4})
    assert reply.status_code == 200, reply.text
    assert Image.open(io.BytesIO(reply.content)).size == (256, 256)
    assert [model["name"] for model in serving.get("/api/v1/models").json()["models"]] == ["anemone-demo"]
