"""Computes the memory that a model's weights need, from its packages alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import psutil

from converter.errors import MemoryShortage
from converter.folder import ModelFolder
from converter.runtime import weight_bytes

#: The share of a machine's memory that models may take unless a setting says otherwise.
_SHARE = 0.6

#: together: an image's networks stay loaded. in_turn: each is loaded when it is needed, and unloaded.
Fit = Literal["together", "in_turn"]


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of weights of each network; an image's working memory comes on top."""

    networks: dict[str, int]

    @property
    def together(self) -> int:
        """Bytes with all networks loaded."""
        return sum(self.networks.values())

    @property
    def in_turn(self) -> int:
        """Bytes with one network loaded at a time."""
        return max(self.networks.values(), default=0)

    def fit(self, budget: int) -> Fit:
        """Return how the model fits into ``budget`` bytes; raises MemoryShortage if even one network is too large."""
        if self.in_turn > budget:
            largest = max(self.networks, key=lambda n: self.networks[n])
            raise MemoryShortage(
                f"its {largest} alone takes {self.in_turn / 1e9:.2f} GB, and models may take {budget / 1e9:.2f} GB; "
                "convert it smaller, or give the server a larger memory_budget_gb"
            )
        return "together" if self.together <= budget else "in_turn"


def memory_need(model: ModelFolder) -> MemoryNeed:
    """Return the memory need of the model's networks, each by its largest package: its variants share their weights."""
    return MemoryNeed(
        {
            network: max(weight_bytes(model.path / path) for path in {package.path for package in packages})
            for network, packages in model.manifest.networks.items()
        }
    )


def memory_budget(budget_gb: float | None = None) -> int:
    """Return the bytes that models may take: ``budget_gb`` gigabytes, or if None a fraction of the machine's memory."""
    return int(_SHARE * psutil.virtual_memory().total) if budget_gb is None else int(budget_gb * 1e9)
