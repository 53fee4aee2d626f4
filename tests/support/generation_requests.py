"""Requests for tests of what keeps and orders them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from server.jobs.job import Submission
from server.pipeline.cost import cost
from server.pipeline.request import GenerationRequest
from tests.support.fake_pipeline import MANIFEST


def request(prompt: str = "a circle", image: bytes | None = None, **fields: Any) -> GenerationRequest:
    made = GenerationRequest(prompt, 64, 64, 3, 4.5, 7, "euler", "fake", image=image, strength=0.5 if image else None)
    return replace(made, **fields)


def submission(asked: GenerationRequest | None = None, **fields: Any) -> Submission:
    asked = asked or request()
    return Submission(asked, cost(asked, MANIFEST), **fields)
