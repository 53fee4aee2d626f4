"""What tests of packages share."""

from __future__ import annotations

import logging
import warnings

import pytest


@pytest.fixture(scope="session")
def ct():
    """coremltools, without what it says of a machine that is no Mac."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import coremltools
    return coremltools
