"""Generation requests for tests of the queue and the store."""

from __future__ import annotations

from typing import Any

from server.jobs.job import Submission
from server.pipeline.cost import cost
from server.pipeline.request import GenerationRequest, bind
from tests.support.fake_pipeline import MANIFEST


def request(prompt: str = "a circle", **fields: Any) -> GenerationRequest:
    return bind(MANIFEST, **{"prompt": prompt, "seed": None if "seeds" in fields else 7, **fields})


def submission(bound: GenerationRequest | None = None, **fields: Any) -> Submission:
    bound = bound or request()
    return Submission(bound, cost(bound, MANIFEST), **fields)
