"""Reads prompts that change from step to step: ``[from:to:when]``, ``[to:when]``, ``[from::when]`` and ``[a|b]``.

What the syntax means is AUTOMATIC1111's. Other brackets stay in the text: they are emphasis (`server.pipeline.prompts.emphasis`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

_TOKENS = re.compile(r"\\.|[^\\()\[\]:|]++|.", re.DOTALL)
_WHEN = re.compile(r"\s*([-+]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][-+]?[0-9]++)?)\s*")
_CLOSED_BY = {")": "(", "]": "["}


@dataclass(frozen=True)
class Walk:
    """The steps that a prompt is used for: their number, and that of an earlier pass; None without one.

    After an earlier pass the numbers in a prompt count on: fractions from 1 to 2, and steps after the earlier ones, are in
    this one (A1111's hires fix).
    """

    steps: int
    earlier: int | None = None


@dataclass(frozen=True)
class Edit:
    """The first of two ``choices`` up to a step, then the second; ``when`` is a step, or with a point a share of all."""

    choices: tuple[Nodes, Nodes]
    when: str

    def choice(self, step: int, walk: Walk) -> int:
        """Return which of the choices stands there at a step, counted from 1."""
        is_share = "." in self.when
        earlier = float(walk.earlier is not None) if is_share else walk.earlier or 0
        last = (float(self.when) - earlier) * (walk.steps if is_share else 1)
        return int(step > int(max(-1, min(last, walk.steps))))


@dataclass(frozen=True)
class Alternation:
    """Another one of ``choices`` at each step, in turn."""

    choices: tuple[Nodes, ...]

    def choice(self, step: int, walk: Walk) -> int:
        """Return which of the choices stands there at a step, counted from 1."""
        return (step - 1) % len(self.choices)


@dataclass(frozen=True)
class Group:
    """Brackets that mean nothing here, with what is in them."""

    inside: Nodes


Change: TypeAlias = Edit | Alternation
Node: TypeAlias = "str | Change | Group"
Nodes: TypeAlias = "tuple[Node, ...]"


@dataclass(frozen=True)
class Schedule:
    """A prompt, as it changes from step to step. ``changes`` has all its edits and alternations, nested ones too."""

    nodes: Nodes
    changes: tuple[Change, ...] = ()

    def choices(self, walk: Walk) -> list[tuple[int, ...]]:
        """Return at each step which choice of every change stands there; equal ones give equal texts."""
        return [tuple(change.choice(step, walk) for change in self.changes) for step in range(1, walk.steps + 1)]

    def texts(self, walk: Walk) -> tuple[str, ...]:
        """Return the text at each step."""
        choices, texts = self.choices(walk), dict[tuple[int, ...], str]()
        for step, chosen in enumerate(choices, 1):
            if chosen not in texts:
                texts[chosen] = self._text(step, walk)
        return tuple(texts[chosen] for chosen in choices)

    def _text(self, step: int, walk: Walk) -> str:
        texts: list[str] = []
        unread: list[Iterator[Node]] = [iter(self.nodes)]  # not by recursion: nesting may be thousands deep
        while unread:
            node = next(unread[-1], None)
            if node is None:
                unread.pop()
            elif isinstance(node, str):
                texts.append(node)
            elif isinstance(node, Group):
                unread.append(iter(node.inside))
            else:
                unread.append(iter(node.choices[node.choice(step, walk)]))
        return "".join(texts)


@dataclass(slots=True)
class _Bracket:
    """An open bracket: what was read since, and where in it colons and bars stand.

    broken: whether it cannot be an edit, since what is in it is not well formed.
    """

    opening: str
    nodes: list[Node] = field(default_factory=list)
    marks: list[tuple[str, int]] = field(default_factory=list)
    broken: bool = False

    def split(self, mark: str) -> list[Nodes]:
        """Return what stands between its marks of a kind."""
        places = [place for each, place in self.marks if each == mark]
        ends = zip([0, *(place + 1 for place in places)], [*places, len(self.nodes)], strict=True)
        return [tuple(self.nodes[start:end]) for start, end in ends]

    def change(self) -> Change | None:
        """Return what it means if it is a square one and is closed; None if it is emphasis."""
        if self.broken or not self.marks:
            return None
        parts, choices = self.split(":"), self.split("|")
        last = [node for node in parts[-1] if isinstance(node, str)]
        when = _WHEN.fullmatch("".join(last)) if len(last) == len(parts[-1]) else None
        if len(parts) in (2, 3) and when is not None:
            return Edit((parts[0] if len(parts) == 3 else (), parts[-2]), when[1])
        return Alternation(tuple(choices)) if len(parts) == 1 else None


def read_schedule(prompt: str) -> Schedule:
    """Read a prompt. Any text is one: what is not well formed is text.

    A1111 gives up the whole prompt at a bar outside of brackets; here it is text, as its documented examples have it.
    """
    stack, changes = [_Bracket("")], list[Change]()
    for token in _TOKENS.findall(prompt):
        top = stack[-1]
        if token in ("(", "["):
            stack.append(_Bracket(token))
        elif token in _CLOSED_BY and top.opening == _CLOSED_BY[token]:
            stack.pop()
            change = top.change() if token == "]" else None
            if change is not None:
                changes.append(change)
                stack[-1].nodes.append(change)
                continue
            stack[-1].nodes.append(Group((top.opening, *top.nodes, token)))
            # One colon may stand in round brackets: that of a weight.
            colons = sum(mark == ":" for mark, _ in top.marks)
            stack[-1].broken |= top.broken or colons > (token == ")")
        else:
            top.broken |= token in _CLOSED_BY
            if token in (":", "|"):
                top.marks.append((token, len(top.nodes)))
            top.nodes.append(token)
    while len(stack) > 1:
        unclosed = stack.pop()
        stack[-1].nodes.append(Group((unclosed.opening, *unclosed.nodes)))
    return Schedule(tuple(stack[0].nodes), tuple(changes))
