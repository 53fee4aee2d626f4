"""The input of a rule: one function of a package on one chip."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from converter.lint.chips import Chip
from converter.lint.finding import Place
from converter.lint.listing import Function, Operation, ProgramListing
from converter.lint.placement import Placement
from converter.lint.stored import Weight

MIB = 2**20
#: A copy of fewer bytes takes less time than any call of the engine does (some tenths of a millisecond).
COPY = MIB
#: The lint does not report storing or converting fewer bytes than this once too often.
SMALL = 64 * 1024


def megabytes(count: float) -> str:
    """Return a number of bytes in words."""
    return f"{count / MIB:.1f} MB" if count >= MIB / 10 else f"{count / 1024:.1f} kB"


@dataclass(frozen=True)
class RuleContext:
    """One function, its package, and the placement of its operations on a chip."""

    listing: ProgramListing
    function: Function
    chip: Chip
    placement: Placement

    def place(self, op: Operation, detail: str, cost: float, of: Iterable[str] | None = None) -> Place:
        """Return the place of an operation, with the shapes of its results or of the tensors ``of``."""
        shapes = tuple(self.function.types[n].shape for n in (op.outputs if of is None else of))
        return Place(self.function.name, op.index, op.kind, op.name, shapes, detail, cost)

    def weight(self, weight: Weight, detail: str, cost: float) -> Place:
        """Return the place of a constant."""
        kind = weight.kinds[-1] if weight.kinds else "const"
        return Place(self.function.name, None, kind, weight.name, (weight.type.shape,), detail, cost)

    def feature(self, name: str, detail: str, cost: float) -> Place:
        """Return the place of an input or output."""
        kind = "input" if name in self.function.inputs else "output"
        types = self.function.types
        return Place(self.function.name, None, kind, name, (types[name].shape,) if name in types else (), detail, cost)

    def whole(self, detail: str, cost: float) -> Place:
        """Return the function itself as a place."""
        return Place(self.function.name, None, "program", self.function.name, (), detail, cost)

    def bytes_of(self, op: Operation) -> int:
        """Return the bytes of the largest tensor an operation takes or gives."""
        names = (*self.function.tensors(op), *op.outputs)
        return max((self.function.types[n].nbytes for n in names), default=0)
