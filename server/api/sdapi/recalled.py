"""What an infotext in a body says of the keys that the body leaves out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from server.api.sdapi.checkpoints import checkpoint_called
from server.api.sdapi.upscalers import our_upscaler
from server.errors import quoted
from server.models.installed import InstalledModels
from server.pipeline.fields import Infotext
from server.pipeline.infotext import RequestFields, find_addons, read_infotext, read_request_fields
from server.pipeline.infotext.parameters import Unused
from server.pipeline.request import KnownAddons, RequestError, Task, field_named
from server.pipeline.upscaling.names import LATENT

_HIRES = "hires"


@dataclass(frozen=True)
class Recalled:
    """Fields by our names, the installed model (None: none is named), and notes on what was not used."""

    fields: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    notes: tuple[str, ...] = ()

    def without(self, error: RequestError) -> Recalled:
        """Return what is left without the field that the model does not accept, which is noted."""
        wrong = error.field.partition(".")[0]  # of an item of a list, the list
        fields = {name: value for name, value in self.fields.items() if name != wrong}
        infotext = field_named(wrong).find(Infotext)
        name = wrong if infotext is None else infotext.key
        unused = Unused(name, str(error.value), f"accepted: {error.accepted}")
        return Recalled(fields, self.model, (*self.notes, f"of the infotext, {unused}"))


def recall(
    text: str,
    task: Task,
    attached: Collection[str],
    models: InstalledModels,
    upscalers: Iterable[str],
    addons: KnownAddons,
) -> Recalled:
    """Return what an infotext says for a request of this task with these attachments. What is not installed is left out."""
    said = read_request_fields(read_infotext(text), attached)
    here = find_addons(said, addons)
    taken = {each.name for each in task.fields}
    if "source" not in task.lacks:
        taken -= {each.name for each in task.fields if each.part == _HIRES}  # made of prompts only
    fields = {name: value for name, value in here.fields.items() if name in taken}
    notes = [f"of the infotext, {unused}" for unused in said.unused]
    notes += [f"of the infotext, {name} was not used here" for name in said.fields if name not in taken]
    notes += here.notes  # a request says itself which of its tags are not known
    notes += _without_missing(fields, models, upscalers)
    model, missing = _model(said, models)
    return Recalled(fields, model, (*notes, *missing))


def _without_missing(fields: dict[str, Any], models: InstalledModels, upscalers: Iterable[str]) -> Iterator[str]:
    """Take an upscaler and a refiner that are not installed out of the fields, with a note on each."""
    upscaler, known = fields.get("hires_upscaler"), (LATENT, *upscalers)
    if upscaler is not None and our_upscaler(upscaler, known) not in known:
        yield f"the infotext's upscaler {quoted(upscaler)} is not installed, and was not used; installed: {', '.join(known)}"
        del fields["hires_upscaler"]
    refiner = fields.get("refiner")
    if refiner is not None and checkpoint_called(models, refiner) is None:
        yield f"the infotext's refiner {quoted(refiner)} is not installed, and was not used"
        for name in ("refiner", "refiner_switch"):
            fields.pop(name, None)


def _model(said: RequestFields, models: InstalledModels) -> tuple[str | None, tuple[str, ...]]:
    names = [name for name in (said.model, said.model_hash) if name is not None]
    found = next(filter(None, (checkpoint_called(models, name) for name in names)), None)
    if found is not None or not names:
        return found, ()
    return None, (f"the infotext's model {quoted(said.model or said.model_hash)} is not installed, and was not used",)
