"""How far an operation's results reach, measured as a network runs: where fp16 overflows, and how near it is elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from converter.runtime.precision import NORMAL, Format


@dataclass(frozen=True)
class Range:
    """What one output of an operation was over one prediction or several.

    peak: the greatest magnitude before rounding, of the finite results.
    ceiling: the greatest magnitude that stays finite.
    count: how many results there were.
    overflowed: how many became infinite here: beyond the ceiling, or of finite operands (a division by 0).
    infinite, undefined, subnormal: how many were infinite, NaN, or in fp16's subnormal numbers and not 0, after rounding
    but before subnormal ones are flushed.
    """

    output: str
    kind: str
    ceiling: float
    peak: float
    count: int
    overflowed: int
    infinite: int
    undefined: int
    subnormal: int

    @property
    def headroom_db(self) -> float:
        """How much larger the peak could be, in dB; negative where it overflows, infinite where all results are 0."""
        return 20 * math.log10(self.ceiling / self.peak) if self.peak else math.inf

    def also(self, other: Range) -> Range:
        """Join this and another prediction's range of the same output."""
        return Range(
            self.output,
            self.kind,
            self.ceiling,
            max(self.peak, other.peak),
            self.count + other.count,
            self.overflowed + other.overflowed,
            self.infinite + other.infinite,
            self.undefined + other.undefined,
            self.subnormal + other.subnormal,
        )


def measured(
    output: str, kind: str, form: Format, exact: torch.Tensor, *, finite_operands: Callable[[], bool]
) -> Range:
    """Return the range of an operation's results before rounding (fp32, any shape).

    ``finite_operands`` is asked only where a result is infinite already before rounding.
    """
    size = exact.abs()
    infinite = torch.isinf(size)
    kept = Format(form.ceiling).keep(size)
    unbounded = int(torch.isinf(kept).sum())
    before = int(infinite.sum())
    inherited = before if before and not finite_operands() else 0
    finite = size.where(torch.isfinite(size), 0.0)
    return Range(
        output,
        kind,
        form.ceiling,
        float(finite.max()) if finite.numel() else 0.0,
        exact.numel(),
        unbounded - inherited,
        unbounded,
        int(torch.isnan(size).sum()),
        int(((kept < NORMAL) & (kept > 0)).sum()),
    )


def nearest(ranges: Iterable[Range]) -> list[Range]:
    """Return those that overflowed first, then by headroom, the least first; the program's order among equals."""
    return sorted(ranges, key=lambda r: (not r.overflowed, r.headroom_db))


def report(ranges: Iterable[Range], most: int) -> str:
    """Return a table of the ``most`` operations nearest to overflow, and the fate of those behind one that did."""
    found = nearest(ranges)
    lines = [f"{'operation':40} {'kind':16} {'peak':>10} {'limit':>6} {'headroom':>9}"]
    for one in found[:most]:
        words = f"  {one.overflowed / one.count:.2%} overflow" if one.overflowed else ""
        lines.append(
            f"{one.output:40} {one.kind:16} {one.peak:10.4g} {one.ceiling:6.0f} {one.headroom_db:6.1f} dB{words}"
        )
    carried = sum(1 for one in found if (one.infinite or one.undefined) and not one.overflowed)
    if carried:
        lines.append(f"{carried} operations behind these have infinities or NaN in their results")
    return "\n".join(lines)
