"""What many tests share. Imports no PyTorch: the process that only hands tests to others has no use for it."""

from __future__ import annotations

import gc
import os

import pytest

# One thread, here and in the processes that tests start, read as PyTorch is imported. Tiny networks gain nothing from
# more, and threads of several processes on the same cores wait for each other by spinning: with two in each of two
# processes on two busy cores, converting the tiny refiner took 17 s of CPU, not 2.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish():
    """Leave what is imported by now out of garbage collection.

    coremltools collects at each of its conversions: among a million objects of PyTorch's and its own that took 9 of 10
    seconds of the tests that write programs with it.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny checkpoint folder; not to be changed."""
    from tests.support.checkpoints import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def model_folder(checkpoint, tmp_path_factory):
    """The tiny checkpoint converted, at two sizes."""
    from converter.conversion.convert import convert
    from converter.options import ConvertOptions

    out = tmp_path_factory.mktemp("models") / "tiny"
    return convert(checkpoint, out, ConvertOptions(sizes=((64, 64), (96, 64))))


@pytest.fixture(scope="session")
def bundled_folder(worker_id, tmp_path_factory):
    """The bundled model converted, once for all processes that run tests; not to be changed."""
    from converter.conversion.convert import convert
    from converter.conversion.partial import conversion_lock
    from converter.folder import ModelFolder
    from converter.options import ConvertOptions
    from server.settings import BUNDLED_MODEL

    own = tmp_path_factory.getbasetemp()
    out = (own if worker_id == "master" else own.parent) / "bundled" / "model"
    out.parent.mkdir(exist_ok=True)
    with conversion_lock(out):
        return ModelFolder.open(out) if out.exists() else convert(BUNDLED_MODEL, out, ConvertOptions())
