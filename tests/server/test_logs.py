from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest

from server.logs import CONNECTIONS, about_job, log_as

log = logging.getLogger("anemone.test")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # pytest's own, which log_as would close
    yield
    root.handlers[:], root.level = handlers, level


def test_a_line_of_text_names_the_job_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    log_as("text")
    with about_job("j1"):
        log.warning("step %d failed", 3)
    log.info("idle")
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING anemone\.test \[j1\]: step 3 failed", first)
    assert second.endswith("INFO anemone.test: idle")


def test_a_message_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    log_as("text")
    log.info("model %s", "x\n2026-01-01 INFO all is well\x1b[2J")
    assert capsys.readouterr().err.rstrip().endswith(r"model x\n2026-01-01 INFO all is well\x1b[2J")


def test_json_lines_have_the_job_and_the_exception_in_fields(capsys: pytest.CaptureFixture[str]) -> None:
    log_as("json")
    with about_job("j2"):
        try:
            raise ValueError("a\nb")
        except ValueError:
            log.exception("it failed")
    log.info("idle")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["job"], first["level"], first["logger"], first["message"]) == (
        "j2", "error", "anemone.test", "it failed",
    )  # fmt: skip
    assert "ValueError: a\nb" in first["exception"]
    assert "job" not in second
    assert "exception" not in second


def test_what_clients_cause_is_logged_once_and_then_with_how_often_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    log_as("text")
    library, connections = logging.getLogger("uvicorn.error"), logging.getLogger(CONNECTIONS)
    for client in range(100):
        library.warning("Invalid HTTP request received.")
        connections.warning("%s has %d connections", client, 80)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("Invalid HTTP request received.")
    assert second.endswith("0 has 80 connections")
    now += 61
    library.warning("Invalid HTTP request received.")
    connections.warning("%s has %d connections", 7, 80)
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("Invalid HTTP request received. (99 more like it since the last)")
    assert second.endswith("7 has 80 connections (99 more like it since the last)")


def test_exceptions_from_different_places_are_all_logged(capsys: pytest.CaptureFixture[str]) -> None:
    log_as("text")
    library = logging.getLogger("asyncio")
    for _ in range(50):
        for failing in (lambda: 1 // 0, lambda: [][1]):
            try:
                failing()
            except (ZeroDivisionError, IndexError):
                library.exception("Exception in callback")
    assert capsys.readouterr().err.count("Traceback") == 2


def test_all_of_the_servers_own_messages_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    log_as("text")
    for _ in range(50):
        log.warning("the job failed")
    assert capsys.readouterr().err.count("the job failed") == 50
