"""Reads a request's prompts: which texts stand at each step, and how much each counts."""

from __future__ import annotations

from dataclasses import dataclass

from server.pipeline.prompts.composition import parts_of
from server.pipeline.prompts.editing import Schedule, Walk, read_schedule

#: Prompts that AND may join: each is a row of every call of the UNet.
MOST_PARTS = 8
#: Edits and alternations of a prompt, and different texts that they may give: each is encoded and kept.
MOST_CHANGES, MOST_TEXTS = 100, 32


@dataclass(frozen=True)
class ReadPrompt:
    """The prompts that make up one, as they change from step to step, and their weights."""

    schedules: tuple[Schedule, ...]
    weights: tuple[float, ...] = (1.0,)

    def texts(self, walk: Walk) -> list[tuple[str, ...]]:
        """Return the texts at each step, one for each weight."""
        return list(zip(*(schedule.texts(walk) for schedule in self.schedules), strict=True))

    def excess(self, walk: Walk) -> str | None:
        """Say what is accepted where the prompt would cost too much; None if it does not."""
        if len(self.schedules) > MOST_PARTS:
            return f"at most {MOST_PARTS} prompts joined by AND"
        if sum(len(schedule.changes) for schedule in self.schedules) > MOST_CHANGES:
            return f"at most {MOST_CHANGES} edits and alternations ([from:to:when], [a|b])"
        if sum(len(set(schedule.choices(walk))) for schedule in self.schedules) > MOST_TEXTS:
            return f"edits and alternations that give at most {MOST_TEXTS} different texts over all steps"
        return None


def read_prompt(prompt: str, *, with_syntax: bool, is_negative: bool = False) -> ReadPrompt:
    """Read a prompt; without syntax it is one text at all steps. AND is text in a negative prompt, as in A1111."""
    if not with_syntax:
        return ReadPrompt((Schedule((prompt,)),))
    if is_negative:
        return ReadPrompt((read_schedule(prompt),))
    parts = parts_of(prompt)
    return ReadPrompt(tuple(read_schedule(part.text) for part in parts), tuple(part.weight for part in parts))
