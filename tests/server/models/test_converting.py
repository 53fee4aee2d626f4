from __future__ import annotations

import errno
import multiprocessing
from pathlib import Path

import pytest

from converter.progress import OnProgress, Progress
from server.models import converting
from server.models.conversion_request import ConversionRequest
from server.models.converting import ConversionFailed, convert_requested

MB = 2**20


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full: data/models cannot be written; free some space: at least 70 MB for the rest"),
        (errno.EROFS, "the disk is read-only: data/models cannot be written"),
    ],
)
def test_a_conversion_that_the_disk_stops_says_what_is_wrong_and_how_much_room_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def stopped(request: ConversionRequest, data_dir: Path, report: OnProgress) -> None:
        report(Progress("converting", "unet", 30 * MB, 100 * MB))
        raise OSError(number, "as the system says it")

    for owner, name in ((converting.os, "nice"), (converting, "log_as")):
        monkeypatch.setattr(owner, name, lambda *_: None)  # they would change this process
    monkeypatch.setattr(converting, "_make_model", stopped)
    ours, theirs = multiprocessing.Pipe()
    convert_requested(theirs, ConversionRequest("owner/name@main", "m"), tmp_path / "data", "text")
    ours.recv()
    failed = ours.recv()
    assert isinstance(failed, ConversionFailed)
    assert failed.code == "disk"
    assert words in failed.message
    assert str(tmp_path) not in failed.message
