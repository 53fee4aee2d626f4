"""Requests for tests of what keeps and orders them."""

from __future__ import annotations

from typing import Any

from server.jobs.job import Submission
from server.pipeline.cost import cost
from server.pipeline.request import GenerationRequest, bind
from tests.support.fake_pipeline import MANIFEST


def request(prompt: str = "a circle", **fields: Any) -> GenerationRequest:
    return bind(MANIFEST, **{"prompt": prompt, "seed": None if "seeds" in fields else 7, **fields})


def submission(asked: GenerationRequest | None = None, **fields: Any) -> Submission:
    asked = asked or request()
    return Submission(asked, cost(asked, MANIFEST), **fields)
