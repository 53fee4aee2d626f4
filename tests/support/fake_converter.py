"""Conversions for tests: real processes and messages, without weights. The last part of the source sets the behavior.

"slow" takes a tenth of a second for each of a hundred pieces, "steady" for each of five; "bad" cannot be converted; "die"
kills the process, "die once" only the first time.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from converter.progress import Progress
from server.models.conversion_request import ConversionRequest
from server.models.conversions import LaunchConversion
from server.models.converting import ConversionFailed, Converted
from tests.support.fake_pipeline import DAMAGE, MANIFEST
from tests.support.processes import copied

PIECES = 100


def convert(pipe: Connection, request: ConversionRequest, data_dir: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    words = request.source.rpartition("/")[2]
    (data_dir / "begun").open("a").write(f"{request.source}\n")
    pipe.send(Progress("downloading", "unet.safetensors", 50, 100))
    if "bad" in words:
        pipe.send(ConversionFailed("not_converted", f"{request.source} is of an unknown architecture"))
        return
    mark = data_dir / "died"
    if "die" in words and not ("once" in words and mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    pieces = next((count for word, count in (("slow", PIECES), ("steady", 5)) if word in words), 1)
    for piece in range(pieces):
        pipe.send(Progress("converting", "unet", piece, PIECES, 1.0))
        if pieces > 1:
            time.sleep(0.1)
    folder = data_dir / "models" / request.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DAMAGE).unlink(missing_ok=True)
    replace(MANIFEST, name=request.name).write(folder)
    pipe.send(Converted())


def launcher(data_dir: Path) -> LaunchConversion:
    return lambda request: copied(convert, request, data_dir, name="fake-conversion")


def begun(data_dir: Path) -> list[str]:
    """Return the sources of all conversions that have started."""
    log = data_dir / "begun"
    return log.read_text().splitlines() if log.exists() else []
