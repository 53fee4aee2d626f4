"""Measure the range of operations' results as a network runs: where fp16 overflows, and how near it is elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from converter.runtime.precision import NORMAL, Format


@dataclass(frozen=True)
class Range:
    """The range of one output of an operation over one or several predictions.

    peak: the greatest magnitude of the finite results before rounding.
    ceiling: the greatest magnitude that stays finite.
    count: the number of results.
    overflowed: how many became infinite here: beyond the ceiling, or from finite operands (a division by 0).
    infinite, undefined, subnormal: how many were infinite, NaN, or subnormal in fp16 and not 0, after rounding but before
    subnormal numbers are flushed.
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
        """How much larger the peak could be, in dB; negative if it overflows, infinite if all results are 0."""
        return 20 * math.log10(self.ceiling / self.peak) if self.peak else math.inf

    def merge(self, other: Range) -> Range:
        """Return this range merged with that of another prediction, for the same output."""
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


def measure_range(
    output: str, kind: str, form: Format, exact: torch.Tensor, *, finite_operands: Callable[[], bool]
) -> Range:
    """Return the range of an operation's results before rounding (fp32, any shape).

    ``finite_operands`` is called only if a result is infinite before rounding.
    """
    size = exact.abs()
    infinite = torch.isinf(size)
    rounded = Format(form.ceiling).round(size)
    unbounded = int(torch.isinf(rounded).sum())
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
        int(((rounded < NORMAL) & (rounded > 0)).sum()),
    )


def by_headroom(ranges: Iterable[Range]) -> list[Range]:
    """Sort ranges: those that overflowed first, then by headroom, the least first; equal ones in the program's order."""
    return sorted(ranges, key=lambda r: (not r.overflowed, r.headroom_db))


def report(ranges: Iterable[Range], most: int) -> str:
    """Return a table of the ``most`` operations nearest to overflow, and how many others got infinities or NaN."""
    results = by_headroom(ranges)
    lines = [f"{'operation':40} {'kind':16} {'peak':>10} {'limit':>6} {'headroom':>9}"]
    for result in results[:most]:
        words = f"  {result.overflowed / result.count:.2%} overflow" if result.overflowed else ""
        lines.append(
            f"{result.output:40} {result.kind:16} {result.peak:10.4g} {result.ceiling:6.0f} "
            f"{result.headroom_db:6.1f} dB{words}"
        )
    carried = sum(1 for r in results if (r.infinite or r.undefined) and not r.overflowed)
    if carried:
        lines.append(f"{carried} operations after these have infinities or NaN in their results")
    return "\n".join(lines)
