"""The image tasks: which of a request's fields each takes, and which it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.pipeline.fields import RequestField
from server.pipeline.request.edits import Outpaint
from server.pipeline.request.request import FIELDS


@dataclass(frozen=True)
class Task:
    """A task that makes images.

    needs: the fields that a request must have.
    lacks: the request's parts whose fields it does not take.
    defaults: values in place of the fields' usual defaults.
    """

    name: str
    needs: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[RequestField, ...]:
        """The fields that it takes."""
        return tuple(each for each in FIELDS if each.part not in self.lacks)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("txt2img", ("prompt",), ("source", "mask", "outpaint")),
        Task("img2img", ("prompt", "image"), ("mask", "outpaint")),
        Task("inpaint", ("prompt", "image", "mask"), ("outpaint",)),
        Task("outpaint", ("prompt", "image")),
        Task("variations", ("image",), ("mask", "outpaint"), {"prompt": "", "strength": 0.6}),
    )
}


def edit_task(sent: Mapping[str, Any]) -> Task:
    """Return the task of an image that is changed: a mask makes it inpainting, pixels beyond an edge outpainting."""
    if Outpaint.is_asked(sent):
        return TASKS["outpaint"]
    return TASKS["img2img" if sent.get("mask") is None else "inpaint"]


def takers(name: str) -> tuple[str, ...]:
    """Return the names of the tasks that take this field; none for a name that is no field."""
    return tuple(task.name for task in TASKS.values() if any(each.name == name for each in task.fields))
