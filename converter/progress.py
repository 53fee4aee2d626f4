"""Progress of a download, a conversion, verification, a merge or loading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Stage = Literal["downloading", "converting", "verifying", "merging", "loading"]


@dataclass(frozen=True)
class Progress:
    """The progress of one stage.

    item: the file or network that it works on.
    done, total: bytes of weights over all files or networks; when loading, the number of networks.
    eta_s: seconds left, from the speed so far; None until that is known.
    """

    stage: Stage
    item: str
    done: int
    total: int
    eta_s: float | None = None


OnProgress: TypeAlias = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Do nothing."""
