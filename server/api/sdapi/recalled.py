"""What an infotext in a body says of the keys that the body leaves out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from server.api.sdapi.checkpoints import find_checkpoint
from server.errors import quoted
from server.models.installed import InstalledModels
from server.pipeline.infotext import RequestFields, read_infotext, read_request_fields
from server.pipeline.request import RequestError, Task

_HIRES = "hires"


@dataclass(frozen=True)
class Recalled:
    """Fields by our names, the installed model (None: none is named), and notes on what was not used."""

    fields: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    notes: tuple[str, ...] = ()


def recall(text: str, task: Task, attached: Collection[str], models: InstalledModels) -> Recalled:
    """Return what an infotext says for a request of this task with these attachments."""
    said = read_request_fields(read_infotext(text), attached)
    taken = {each.name for each in task.fields}
    if "source" not in task.lacks:
        taken -= {each.name for each in task.fields if each.part == _HIRES}  # made of prompts only
    fields = {name: value for name, value in said.fields.items() if name in taken}
    notes = [f"of the infotext, {unused}" for unused in said.unused]
    notes += [f"of the infotext, {name} was not used here" for name in said.fields if name not in taken]
    model, missing = _model(said, models)
    return Recalled(fields, model, (*notes, *missing))


def _model(said: RequestFields, models: InstalledModels) -> tuple[str | None, tuple[str, ...]]:
    for name in (said.model, said.model_hash):
        try:
            if name is not None:
                return find_checkpoint(models, name, "infotext"), ()
        except RequestError:
            continue
    if said.model is None and said.model_hash is None:
        return None, ()
    return None, (f"the infotext's model {quoted(said.model or said.model_hash)} is not installed, and was not used",)
