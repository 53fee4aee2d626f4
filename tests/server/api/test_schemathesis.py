"""Compares the OpenAPI document with a server: schemathesis derives valid and invalid requests from it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from server.cli.openapi import EXPORTED
from tests.support.live_server import live

pytestmark = pytest.mark.slow

api = schemathesis.openapi.from_path(EXPORTED)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with live(tmp_path_factory.mktemp("data")) as client:
        yield client


@api.parametrize()
@settings(
    max_examples=12,
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_request_gets_an_answer_that_the_document_does_not_have(case: Case, server: httpx.Client) -> None:
    # Which sizes and models are accepted is the models' affair, not the document's.
    excluded = [positive_data_acceptance]
    headers = case.meta.components.get(ParameterLocation.HEADER) if case.meta is not None else None
    if headers is not None and headers.mode.is_negative:
        # A preference or retry count that means nothing is ignored (RFC 7240), so such a request may succeed.
        excluded.append(negative_data_rejection)
    if case.path == "/api/v1/tokens":
        # The fake model has no tokenizer and no UNet: it answers 503, as a damaged model does.
        excluded.append(not_a_server_error)
    answer = case.call(base_url=str(server.base_url))
    if answer.status_code in (413, 414):
        # Schemathesis does not count these as rejections.
        excluded.append(negative_data_rejection)
    case.validate_response(answer, excluded_checks=excluded)
