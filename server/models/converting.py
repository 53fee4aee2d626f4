"""The conversion process: one order, then its end. Nothing here runs in the HTTP process or the worker."""

from __future__ import annotations

import logging
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from converter.apple import AppleSettings, adopt, is_apple
from converter.conversion.plan import ConvertOptions
from converter.errors import AnemoneError
from converter.folder import FILE
from converter.progress import Progress
from converter.sources.component import Component
from converter.sources.source import open_source
from server.logs import LogFormat, about_job, log_as
from server.models.library import from_hub, installed_from
from server.models.orders import ConversionOrder

log = logging.getLogger("anemone.conversion")
#: Progress comes for every tensor and every piece of a download; more of it than this nobody could read.
_SECONDS_BETWEEN = 0.2
#: The pictures being made meanwhile go first.
_NICENESS = 10


@dataclass(frozen=True)
class Converted:
    """It is done; the model is in ``folder``."""

    folder: Path


@dataclass(frozen=True)
class ConversionFailed:
    """It cannot be done; ``code`` and ``message`` say why."""

    code: str
    message: str


Report = Progress | Converted | ConversionFailed


class _Reporter:
    """Sends progress on, not more often than somebody can use."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._at, self._sent = pipe, ("", ""), 0.0

    def __call__(self, progress: Progress) -> None:
        at, now = (progress.stage, progress.item), time.monotonic()
        if at != self._at or now - self._sent >= _SECONDS_BETWEEN or progress.done == progress.total:
            self._pipe.send(progress)
            self._at, self._sent = at, now


def _carried_out(order: ConversionOrder, data_dir: Path, report: _Reporter) -> Path:
    """The folder of the order's model, made if it is not there yet."""
    here, out = Path(order.source), data_dir / "models" / order.name
    if (here / FILE).is_file():
        return here
    if here.is_dir() and is_apple(here):
        return adopt(here, AppleSettings()).path
    if not order.options and not here.is_absolute() and (found := from_hub(out, order.source)) is not None:
        return found.path

    def beside(source: str | None, within: str | None = None) -> Component | None:
        return None if source is None else Component.open(source, within, report)

    opened = open_source(order.source, prediction_type=order.prediction_type, progress=report)
    options = ConvertOptions(
        name=order.name,
        sizes=order.sizes,
        attention=order.attention,
        batches=order.batches,
        tokens=order.tokens,
        vae=beside(order.vae, "vae"),
        preview=beside(order.preview),
        safety_checker=beside(order.safety_checker, "safety_checker"),
        controlnets=tuple(net for source in order.controlnets if (net := beside(source))),
        prompt_once=order.prompt_once,
        target=order.target,
        functions=order.functions,
    )
    return installed_from(opened, out, options, report).path


def convert_ordered(pipe: Connection, order: ConversionOrder, data_dir: Path, log_format: LogFormat) -> None:
    """The process's main: carry ``order`` out, reporting on ``pipe``, or stop where nobody listens any more."""
    # Ctrl-C reaches the whole terminal group; the HTTP process decides when this one goes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.nice(_NICENESS)
    log_as(log_format)
    try:
        try:
            with about_job(order.id):
                folder = _carried_out(order, data_dir, _Reporter(pipe))
        except (BrokenPipeError, ConnectionResetError):
            raise
        except AnemoneError as error:
            pipe.send(ConversionFailed("not_converted", str(error)))
        except OSError as error:
            pipe.send(ConversionFailed("disk", f"{error.strerror or error}: {error.filename or data_dir}"))
        except Exception as error:
            log.exception("the conversion of %s failed", order.source)
            pipe.send(ConversionFailed("internal", f"{type(error).__name__}: {error}"))
        else:
            pipe.send(Converted(folder))
    except (BrokenPipeError, ConnectionResetError):
        return  # the server is gone; what is finished is kept for the next
