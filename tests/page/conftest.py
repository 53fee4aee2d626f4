"""The page in Chromium, against a server process that runs the bundled model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.support.browser import MISSING, chromium, sandbox_flags
from tests.support.live_server import PATIENCE, answers, live, over, until

#: Milliseconds that an assertion or a click waits on a busy machine.
WAIT = 15_000
expect.set_options(timeout=WAIT)


class Site:
    """A server process, which can be stopped and started again at the same address."""

    def __init__(self, data_dir: Path, model: Path, key: str | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False, headers=headers)
        self._data, self._model, self._key = data_dir, model, key
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it can make images."""
        flags = ["--port", str(self.port), "--data-dir", str(self._data), "--model", str(self._model)]
        flags += ["--shutdown-seconds", "0"]  # a running job goes back to the queue at once
        keys = {} if self._key is None else {"ANEMONE_API_KEY": self._key}
        log = (self._data.parent / f"{self._data.name}.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "server", "serve", *flags], env=os.environ | keys, stdout=log, stderr=log
            )
        until(lambda: answers(self.client))
        until(lambda: self.client.get("/readyz").status_code == 200)

    def stop(self) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)

    def close(self) -> None:
        """Stop it for good."""
        self.client.close()
        self.stop()

    def newest(self) -> dict[str, Any]:
        """Return the newest job, once it has ended."""
        (job,) = self.client.get("/api/v1/jobs", params={"limit": 1}).json()["jobs"]
        return over(self.client, job["id"])

    def empty(self) -> None:
        """Cancel and delete all jobs."""
        while jobs := self.client.get("/api/v1/jobs").json()["jobs"]:
            for job in jobs:
                self.client.delete(job["url"])
            for job in jobs:
                over(self.client, job["id"])
                self.client.delete(f"{job['url']}/images")


@pytest.fixture(scope="session")
def chromium_path() -> str:
    path = chromium()
    if path is None:
        pytest.skip(MISSING)
    return path


# Not for the whole session: Playwright's event loop runs in this thread, where tests of other modules begin their own.
@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium_path, args=sandbox_flags())
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def running(chromium_path: str, bundled_folder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("page") / "data", bundled_folder.path)
    site.start()
    yield site
    site.close()


@pytest.fixture
def site(running: Site) -> Site:
    """The server, without jobs."""
    running.empty()
    return running


@pytest.fixture(scope="module")
def fake(chromium_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server whose conversions and images are made up."""
    with live(tmp_path_factory.mktemp("fake")) as client:
        yield client


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages; in the end, none may have failed, broken its policy, or sent a request to another host."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []
    requests: list[tuple[str, str]] = []

    def told(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            wrong.append(message.text)

    def open_page(address: str, *, width: int = 1280, height: int = 800, **options: object) -> Page:
        # Without motion: drawn without a graphics card, it keeps a core busy.
        options = {"reduced_motion": "reduce", **options}
        context = browser.new_context(viewport={"width": width, "height": height}, **options)  # type: ignore[arg-type]
        context.set_default_timeout(WAIT)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", told)
        page.on("request", lambda request: requests.append((address, request.url)))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
    network = [(urlsplit(at).netloc, urlsplit(to)) for at, to in requests]
    assert [to.geturl() for at, to in network if to.scheme not in ("blob", "data") and to.netloc != at] == []


@pytest.fixture
def page(site: Site, opened: Callable[..., Page]) -> Page:
    """The page on a screen of usual size."""
    return opened(site.url)
