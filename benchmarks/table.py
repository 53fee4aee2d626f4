"""Formats figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.peers import OURS
from benchmarks.rounds import Figures
from benchmarks.scaling import Point


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is left-aligned, the others right-aligned."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def peers(figures: Sequence[Figures], what: str) -> str:
    """Return a table with a row for each peer; ``what`` is the name of a run. The ratio is our time over the peer's."""
    ours = next((f.run_s for f in figures if f.peer == OURS), None)

    def row(peer: Figures) -> list[str]:
        return [
            peer.peer,
            f"{peer.run_s:.2f} s",
            f"{min(peer.runs_s):.2f} to {max(peer.runs_s):.2f}",
            "" if ours is None else f"{ours / peer.run_s:.2f}",
            "" if peer.psnr_db is None else f"{peer.psnr_db:.1f} dB",
            f"{sorted(peer.ready_s)[len(peer.ready_s) // 2]:.1f} s",
            f"{sorted(peer.first_s)[len(peer.first_s) // 2]:.1f} s",
            _gigabytes(peer.own_bytes),
            _gigabytes(peer.resident_bytes),
        ]

    head = [what, "median", "least to most", f"{OURS} / it", "PSNR", "ready", f"first {what}", "memory", "with files"]
    return table(head, [row(f) for f in figures])


def share(rates: dict[str, float], operations: int, seconds: float) -> str:
    """Return a table of ``operations`` in ``seconds`` as a share of the machine's matrix products, by type."""
    reached = operations / seconds
    rows = [[kind, f"{rate / 1e9:.0f} GFLOP/s", f"{100 * reached / rate:.0f} %"] for kind, rate in rates.items()]
    summary = f"{operations / 1e9:.0f} GFLOP in {seconds:.2f} s are {reached / 1e9:.0f} GFLOP/s\n\n"
    return summary + table(["matrix products", "measured", "share"], rows)


def scaled(points: Sequence[Point]) -> str:
    """Return a table with a row for each size and batch."""
    rows = [
        [f"{p.side}x{p.side}", str(p.batch), f"{p.step_s:.2f} s", _gigabytes(p.own_bytes), _gigabytes(p.resident_bytes)]
        for p in points
    ]
    return table(["image", "batch", "step", "memory", "with files"], rows)
