"""The conversion process: it converts for one request and exits. Nothing here runs in the HTTP process or the worker."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from converter.apple import AppleSettings, adopt, is_apple
from converter.errors import AnemoneError
from converter.manifest import FILE
from converter.options import DEFAULT_OPTIONS
from converter.progress import OnProgress, Progress
from converter.sources.source import open_source
from server.faults import fault_of
from server.logs import LogFormat, about_job, log_as
from server.models.conversion_request import ConversionRequest
from server.models.library import from_hub, installed_from
from server.models.paths import told

log = logging.getLogger("anemone.conversion")
#: At most one report in so many seconds: progress comes for every tensor and every chunk of a download.
_SECONDS_BETWEEN = 0.2
#: A lower priority than that of workers, which make images meanwhile.
_NICENESS = 10


@dataclass(frozen=True)
class Converted:
    """The conversion succeeded; the model is installed under the request's name, or in its source's folder."""


@dataclass(frozen=True)
class ConversionFailed:
    """The conversion failed; ``code`` and ``message`` say why."""

    code: str
    message: str


Report = Progress | Converted | ConversionFailed


class _Reporter:
    """Sends progress to the server, at most five times a second for the same item."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._last, self._sent = pipe, ("", ""), 0.0
        self.progress: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        self.progress = progress
        item, now = (progress.stage, progress.item), time.monotonic()
        if item != self._last or now - self._sent >= _SECONDS_BETWEEN or progress.done == progress.total:
            self._pipe.send(progress)
            self._last, self._sent = item, now


def _make_model(request: ConversionRequest, data_dir: Path, report: OnProgress) -> None:
    """Convert the request's model, unless it is installed already."""
    path, out, options = Path(request.source), data_dir / "models" / request.name, request.options
    if (path / FILE).is_file():
        return
    if path.is_dir() and is_apple(path):
        adopt(path, AppleSettings())
        return
    if options == DEFAULT_OPTIONS and not path.is_absolute() and from_hub(out, request.source, whole=True) is not None:
        return
    checkpoint = open_source(request.source, prediction_type=options.prediction_type, progress=report)
    installed_from(checkpoint, out, replace(options, name=request.name), report)


def _disk_failure(error: OSError, progress: Progress | None, data_dir: Path) -> str:
    """Return what is wrong with the disk, and how much room is needed if it is full."""
    if error.filename is None:
        error.filename = str(data_dir / "models")
    fault = fault_of(error)
    if fault is None:
        return f"{error.strerror or error}: {error.filename}"
    if fault.code != "disk_full" or progress is None or not progress.total:
        return fault.message
    left = (progress.total - progress.done) / 2**20
    return f"{fault.message}: at least {left:.0f} MB for the rest, then request the conversion again"


def convert_requested(pipe: Connection, request: ConversionRequest, data_dir: Path, log_format: LogFormat) -> None:
    """Run a conversion process: convert and report on ``pipe``; stop once the server has closed it."""
    os.nice(_NICENESS)
    log_as(log_format)

    source = Path(request.source)
    parents = (data_dir, data_dir / "models", *([source.parent] if source.is_absolute() else []))

    def send_failure(code: str, message: str) -> None:
        pipe.send(ConversionFailed(code, told(message, parents, log)))

    report = _Reporter(pipe)
    try:
        try:
            with about_job(request.id):
                _make_model(request, data_dir, report)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except AnemoneError as error:
            send_failure("not_converted", str(error))
        except OSError as error:
            send_failure("disk", _disk_failure(error, report.progress, data_dir))
        except Exception as error:
            log.exception("the conversion of %s failed", request.source)
            send_failure("internal", f"{type(error).__name__}: {error}")
        else:
            pipe.send(Converted())
    except (BrokenPipeError, ConnectionResetError):
        return  # the server is gone; the next one resumes with the finished networks
