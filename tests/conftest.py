"""What many tests share."""

from __future__ import annotations

import pytest
import torch

from converter.conversion.convert import convert
from converter.conversion.plan import ConvertOptions
from tests.support.checkpoints import write_checkpoint


@pytest.fixture(scope="session", autouse=True)
def _few_threads():
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A tiny checkpoint folder; not to be changed."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def model_folder(checkpoint, tmp_path_factory):
    """The tiny checkpoint converted, at two sizes."""
    out = tmp_path_factory.mktemp("models") / "tiny"
    return convert(checkpoint, out, ConvertOptions(sizes=((64, 64), (96, 64))), lambda progress: None)
