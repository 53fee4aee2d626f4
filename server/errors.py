"""Errors of requests, which each dialect renders in its own form."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.responses import Response

#: Characters of a rejected value that an answer repeats.
_LONGEST_VALUE = 80


def encodable(text: str) -> str:
    """Return the text with unpaired surrogates escaped, which UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode()


class _Brief(reprlib.Repr):
    """Writes values of any depth and size in bounded time; null, true and false as in JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxlong, self.maxother = 4, _LONGEST_VALUE, _LONGEST_VALUE, _LONGEST_VALUE

    def repr_NoneType(self, value: None, level: int) -> str:
        """Write None."""
        return "null"

    def repr_bool(self, value: bool, level: int) -> str:
        """Write a boolean."""
        return str(value).lower()


_BRIEF = _Brief()


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def quoted(value: Any) -> str:
    """Return a rejected value for a message, at most 80 characters."""
    return _cut(repr(value[:_LONGEST_VALUE]) if isinstance(value, str) else _BRIEF.repr(value))


def listed(names: Sequence[str], most: int = 20) -> str:
    """Return names for a message; of more than ``most`` the first, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def shown(value: Any) -> Any:
    """Return a rejected value as short JSON."""
    if value is None or (isinstance(value, bool | int) and abs(value) < 2**53):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return _cut(encodable(value[: _LONGEST_VALUE + 1] if isinstance(value, str) else _BRIEF.repr(value)))


class ApiError(Exception):
    """An error to answer a request with.

    status: the HTTP status, unless a dialect has its own for this code.
    code: a word for programs. message: a sentence for people.
    field, value, accepted: the wrong field, its value (shortened) and what it accepts; None if no field was wrong.
    headers: headers of the answer in every dialect.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        value: Any = None,
        accepted: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, encodable(message)
        self.field = None if field is None else _cut(encodable(field))
        self.value, self.accepted = shown(value), None if accepted is None else encodable(accepted)
        self.headers = dict(headers or {})


#: Renders an error for the request's path, in the form of the dialect that the path belongs to.
RenderError = Callable[[str, ApiError], Response]
