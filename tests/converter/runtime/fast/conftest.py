from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _two_threads():
    """Divide the kernels' work, however many test processes share the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
