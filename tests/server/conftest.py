from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import httpx
import pytest
from PIL import Image

from tests.support.live_server import live


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One server for every test that leaves it as it was."""
    with live(tmp_path_factory.mktemp("data")) as actual:
        yield actual


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """Makes an encoded image of one colour."""

    def make(kind: str = "PNG", size: tuple[int, int] = (40, 30), colour: str = "red") -> bytes:
        file = io.BytesIO()
        Image.new("RGB", size, colour).save(file, kind)
        return file.getvalue()

    return make
