"""The second version of OpenAI's client, which many programs still have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.api.openai import test_sdk

_SECOND = Path(sys.prefix) / "openai-2"


@pytest.mark.slow
@pytest.mark.skipif(not _SECOND.exists(), reason="openai 2 is not beside the environment: make setup installs it")
def test_everything_that_the_third_version_does_the_second_does_too() -> None:
    file = Path(test_sdk.__file__)
    root = file.parents[4]
    paths = os.pathsep.join((str(_SECOND), str(root)))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(file)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": paths, "TESTED_SDK": "2"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
