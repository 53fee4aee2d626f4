"""Text of findings for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from converter.lint.finding import Finding, Place


def _shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("?" if n is None else str(n) for n in shape) + "]"


def _place(place: Place, functions: bool) -> str:
    where = [] if place.position is None else [f"operation {place.position}"]
    where += [f"function {place.function}"] if functions else []
    words = [place.operation if place.operation == "program" else f"{place.operation} {place.name}"]
    words += [f"({', '.join(where)})"] if where else []
    words += [" and ".join(_shape(s) for s in place.shapes)] if place.shapes else []
    return " ".join(words) + (f": {place.detail}" if place.detail else "")


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def report(findings: Sequence[Finding], *, notes: bool = True) -> str:
    """Return every finding as text, with its number of places and the worst; the others are in `Finding.places`.

    Without ``notes`` the text only counts the notes.
    """
    functions = len({place.function for finding in findings for place in finding.places}) > 1
    lines = []
    for finding in findings:
        if finding.level == "note" and not notes:
            continue
        lines.append(f"{finding.level} {finding.rule} ({finding.severity}): {finding.what}")
        times = len(finding.places)
        before = "at" if times == 1 else f"{times} times, the worst at"
        lines.append(f"    {before} {_place(finding.places[0], functions)}")
        lines.append(f"    {finding.cure}")
    levels = Counter(finding.level for finding in findings)
    total = ", ".join(_count(levels[level], level) for level in ("error", "warning", "note") if levels[level])
    return "\n".join([*lines, total or "nothing found"])
