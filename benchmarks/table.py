"""Figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.peers import OURS
from benchmarks.rounds import Figures
from benchmarks.scaling import Point


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and all others to the right."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def peers(figures: Sequence[Figures], what: str) -> str:
    """A row for each peer; ``what`` is what a run is called. The ratio is our time over the peer's."""
    ours = next((one.run_s for one in figures if one.peer == OURS), None)

    def row(one: Figures) -> list[str]:
        return [
            one.peer,
            f"{one.run_s:.2f} s",
            f"{min(one.runs_s):.2f} to {max(one.runs_s):.2f}",
            "" if ours is None else f"{ours / one.run_s:.2f}",
            "" if one.psnr_db is None else f"{one.psnr_db:.1f} dB",
            f"{sorted(one.ready_s)[len(one.ready_s) // 2]:.1f} s",
            f"{sorted(one.first_s)[len(one.first_s) // 2]:.1f} s",
            _gigabytes(one.own_bytes),
            _gigabytes(one.resident_bytes),
        ]

    head = [what, "median", "least to most", f"{OURS} / it", "PSNR", "ready", f"first {what}", "memory", "with files"]
    return table(head, [row(one) for one in figures])


def share(rates: dict[str, float], operations: int, seconds: float) -> str:
    """How much of the machine's matrix products, in each type, so many operations in so many seconds are."""
    reached = operations / seconds
    rows = [[kind, f"{rate / 1e9:.0f} GFLOP/s", f"{100 * reached / rate:.0f} %"] for kind, rate in rates.items()]
    said = f"{operations / 1e9:.0f} GFLOP in {seconds:.2f} s are {reached / 1e9:.0f} GFLOP/s\n\n"
    return said + table(["matrix products", "measured", "share"], rows)


def scaled(points: Sequence[Point]) -> str:
    """A row for each size and batch."""
    rows = [
        [f"{p.side}x{p.side}", str(p.batch), f"{p.step_s:.2f} s", _gigabytes(p.own_bytes), _gigabytes(p.resident_bytes)]
        for p in points
    ]
    return table(["picture", "batch", "step", "memory", "with files"], rows)
