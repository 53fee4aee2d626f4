"""How much memory a model's weights take, from its packages alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import psutil

from converter.errors import MemoryShortage
from converter.folder import ModelFolder
from converter.runtime import weight_bytes

#: What a model may take of a machine's memory where nobody has said: the rest is the system's and its owner's.
_SHARE = 0.6

#: together: a picture's networks stay loaded. in_turn: each is loaded when its turn comes, and let go.
Fit = Literal["together", "in_turn"]


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of weights of each network; a picture's working memory comes on top."""

    networks: dict[str, int]

    @property
    def together(self) -> int:
        """With all networks loaded."""
        return sum(self.networks.values())

    @property
    def in_turn(self) -> int:
        """With no more than one network loaded."""
        return max(self.networks.values(), default=0)

    def fit(self, budget: int) -> Fit:
        """How the model is held within ``budget`` bytes; raises MemoryShortage where even one network is too large."""
        if self.in_turn > budget:
            largest = max(self.networks, key=lambda n: self.networks[n])
            raise MemoryShortage(
                f"its {largest} alone takes {self.in_turn / 1e9:.2f} GB, and models may take {budget / 1e9:.2f} GB; "
                "convert it smaller, or give the server a larger memory_budget_gb"
            )
        return "together" if self.together <= budget else "in_turn"


def memory_need(model: ModelFolder) -> MemoryNeed:
    """What the model's networks take, each in the largest of its packages: those for other sizes share its weights."""
    return MemoryNeed(
        {
            network: max(weight_bytes(model.path / path) for path in {package.path for package in packages})
            for network, packages in model.manifest.networks.items()
        }
    )


def memory_budget(budget_gb: float | None = None) -> int:
    """Bytes that models may take: so many gigabytes, or where none are given a share of the machine's memory."""
    return int(_SHARE * psutil.virtual_memory().total) if budget_gb is None else int(budget_gb * 1e9)
