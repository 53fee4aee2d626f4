"""A sample of coremltools' own operator tests; all of them are `make conformance`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]


def test_a_sample_of_coremltools_operator_tests_passes_with_our_predictions():
    # A process of its own: coremltools must meet our runtime before it looks for Core ML.
    command = [sys.executable, "-m", "benchmarks.conformance", "--sample", "150"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
