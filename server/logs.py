"""The log: lines of text or JSON, each with the job that it is about."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

LogFormat = Literal["text", "json"]

_JOB: ContextVar[str | None] = ContextVar("job", default=None)
#: The logger of connections, of which a client can open thousands a second.
CONNECTIONS = "anemone.connections"
_SELDOM_SECONDS = 60
_MOST_MESSAGES = 1000
#: Characters that begin a new line, or move the cursor of the terminal that shows them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@contextmanager
def about_job(job_id: str | None) -> Iterator[None]:
    """Mark log lines of the block as being about this job (or conversion)."""
    before = _JOB.set(job_id)
    try:
        yield
    finally:
        _JOB.reset(before)


def _add_job(record: logging.LogRecord) -> bool:
    record.__dict__["job"] = _JOB.get()
    return True


def _job(record: logging.LogRecord) -> str | None:
    job: str | None = record.__dict__.get("job")
    return job


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


class Seldom(logging.Filter):
    """Lets a message that clients can cause pass once in a while, and then says how often it was left out.

    These are the messages of connections and of libraries. Two are the same if their first lines, before values are filled
    in, and the places of their exceptions are.
    """

    def __init__(self) -> None:
        super().__init__()
        #: When each message passed last, and how often it was left out since.
        self._passed: OrderedDict[tuple[str, ...], tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is to be logged."""
        if record.name.startswith("anemone.") and record.name != CONNECTIONS:
            return True
        key, now = (record.name, str(record.msg).partition("\n")[0], _raised_at(record)), time.monotonic()
        passed, left_out = self._passed.get(key, (-math.inf, 0))
        if now - passed < _SELDOM_SECONDS:
            self._passed[key] = (passed, left_out + 1)
            return False
        self._passed[key] = (now, 0)
        if len(self._passed) > _MOST_MESSAGES:
            self._passed.popitem(last=False)
        if left_out:
            record.msg = f"{record.msg} ({left_out} more like it since the last)"
        return True


def _raised_at(record: logging.LogRecord) -> str:
    """Return the kind of the record's exception and where it was raised, "" without one."""
    kind, _, trace = record.exc_info or (None, None, None)
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{kind} {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z WARNING anemone.queue [job]: message``; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text; control characters in the message are escaped, so that no message can forge a line."""
        job_id = _job(record)
        job = f" [{job_id}]" if job_id else ""
        message = _CONTROL.sub(lambda c: repr(c.group())[1:-1], record.getMessage())
        line = f"{_time(record)} {record.levelname} {record.name}{job}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and job and exception if there are any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        fields: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if job := _job(record):
            fields["job"] = job
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def log_as(form: LogFormat) -> None:
    """Log Anemone's messages and libraries' warnings to standard error in this form; called once in each process."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(Seldom())
    handler.addFilter(_add_job)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("anemone").setLevel(logging.INFO)
