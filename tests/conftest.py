"""What many tests share."""

from __future__ import annotations

import os

import pytest
import torch

from converter.conversion.convert import convert
from converter.conversion.plan import ConvertOptions
from tests.support.checkpoints import write_checkpoint


def pytest_configure(config):
    """Share the cores: test processes with more threads than cores wait for one another by spinning."""
    processes = getattr(config.option, "numprocesses", None) or 1
    threads = max(1, min(2, (os.cpu_count() or 1) // processes))
    # Also for the processes that tests start; a pytest-xdist worker has it from the process that started it.
    threads = int(os.environ.setdefault("OMP_NUM_THREADS", str(threads)))
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny checkpoint folder; not to be changed."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def model_folder(checkpoint, tmp_path_factory):
    """The tiny checkpoint converted, at two sizes."""
    out = tmp_path_factory.mktemp("models") / "tiny"
    return convert(checkpoint, out, ConvertOptions(sizes=((64, 64), (96, 64))), lambda progress: None)
