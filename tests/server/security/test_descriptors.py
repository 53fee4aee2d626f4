from __future__ import annotations

import resource

import pytest

from server.security.descriptors import raise_open_files

UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "most", "held"),
    [
        (256, UNLIMITED, UNLIMITED, 10_240),  # a Mac
        (256, UNLIMITED, 9000, 5120),  # a Mac whose kern.maxfilesperproc is smaller
        (1024, 4096, UNLIMITED, 4096),
        (1024, 2**20, UNLIMITED, 10_240),
        (256, 256, UNLIMITED, 256),
        (2**20, 2**20, UNLIMITED, 2**20),
        (UNLIMITED, UNLIMITED, UNLIMITED, 10_240),
    ],
)
def test_the_limit_is_raised_as_far_as_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, most: int, held: int
) -> None:
    limits = [soft, hard]

    def setrlimit(kind: int, wanted: tuple[int, int]) -> None:
        if most != UNLIMITED and wanted[0] > most:
            raise ValueError("not allowed to raise maximum limit")
        limits[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert raise_open_files() == held
    assert limits[0] in (held, UNLIMITED)
