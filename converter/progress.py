"""Progress of what takes seconds or longer: a download, a conversion, verification, loading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Stage = Literal["downloading", "converting", "verifying", "loading"]


@dataclass(frozen=True)
class Progress:
    """How far a stage is.

    item: the file or network it is at.
    done, total: bytes of weights of all files or networks; when loading, networks.
    eta_s: seconds to go, from the speed so far; None while that is not known.
    """

    stage: Stage
    item: str
    done: int
    total: int
    eta_s: float | None = None


OnProgress: TypeAlias = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Do nothing with it."""
