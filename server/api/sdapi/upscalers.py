"""Upscalers by AUTOMATIC1111's names."""

from __future__ import annotations

from collections.abc import Iterable

#: AUTOMATIC1111's name of no upscaler; clients expect it first.
NONE = "None"


def named(name: str | None) -> str | None:
    """Return an upscaler's name; None where a client names none, in any case."""
    return None if not name or name.strip().casefold() == NONE.casefold() else name


def our_upscaler(name: str, known: Iterable[str]) -> str:
    """Return the known upscaler of a name, in any case; another name as it is, which is then refused."""
    return next((each for each in known if each.casefold() == name.strip().casefold()), name)
