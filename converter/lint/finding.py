"""Findings of the lint: the rule, the level, what is wrong, the cure, and every place in the program."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

#: An error leaves the engine or fails to load, a warning is slow or inexact, a note never fails a check.
Level = Literal["error", "warning", "note"]
_LEVELS: tuple[Level, ...] = ("error", "warning", "note")
#: A rule's first letter -> the effect of breaking it.
_EFFECTS = {"E": "off the engine", "W": "slow", "N": "numerics"}

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Place:
    """A place in a program.

    function: the package's function. position: the operation's number there, without constants; None if it is not an
    operation. operation: its type ("softmax"), or "input", "output", "const", "program". shapes: of its results
    (of its first input if the finding is about that); None is a size that is not fixed. detail: the numbers at this
    place. cost: in the rule's own unit, to find the worst place.
    """

    function: str
    position: int | None
    operation: str
    name: str
    shapes: tuple[Shape, ...]
    detail: str
    cost: float


@dataclass(frozen=True)
class Problem:
    """A rule broken at one place."""

    rule: str
    level: Level
    what: str
    cure: str
    place: Place


@dataclass(frozen=True)
class Finding:
    """A rule broken in one way, at one place or many; the worst place first."""

    rule: str
    level: Level
    what: str
    cure: str
    places: tuple[Place, ...]

    @property
    def severity(self) -> str:
        """The effect: off the engine, slow, or numerics."""
        return _EFFECTS[self.rule[0]]


def _order(finding: Finding) -> tuple[int, str, int]:
    letter, number = re.fullmatch(r"(\w)(\d+)", finding.rule).groups()  # type: ignore[union-attr]
    return _LEVELS.index(finding.level), letter, int(number)


def gather(problems: Iterable[Problem]) -> list[Finding]:
    """Join the same problem at different places into one finding; sort errors first, then by rule."""
    groups: dict[tuple[str, Level, str, str], list[Place]] = {}
    for problem in problems:
        groups.setdefault((problem.rule, problem.level, problem.what, problem.cure), []).append(problem.place)
    findings = [
        Finding(rule, level, what, cure, tuple(sorted(places, key=lambda p: -p.cost)))
        for (rule, level, what, cure), places in groups.items()
    ]
    return sorted(findings, key=_order)


def worst(findings: Sequence[Finding]) -> Level | None:
    """Return the highest level of the findings; None without findings."""
    return min((f.level for f in findings), key=_LEVELS.index, default=None)


def exit_status(findings: Sequence[Finding]) -> int:
    """Return 0 if there are only notes, otherwise 1."""
    return int(worst(findings) in ("error", "warning"))
