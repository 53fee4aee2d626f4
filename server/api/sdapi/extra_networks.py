"""Tags in a prompt that name networks beside the model, such as ``<lora:name:0.8>``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from server.errors import quoted

_TAG = re.compile(r"<(lora|lyco|hypernet):([^<>]{0,500})>", re.IGNORECASE)


@dataclass(frozen=True)
class Untagged:
    """A prompt without tags, and notes on those that name what is not here."""

    prompt: str
    notes: tuple[str, ...]


def without_tags(prompt: str) -> Untagged:
    """Take the tags out of a prompt. There are no LoRAs and hypernetworks here yet, so that each tag is noted as unknown."""
    notes = []
    for found in _TAG.finditer(prompt):
        name = found[2].partition(":")[0].strip()
        notes.append(
            f"the {found[1].lower()} {quoted(name)} is not known here, and its tag was taken out of the prompt"
        )
    return Untagged(_TAG.sub("", prompt).strip() if notes else prompt, tuple(dict.fromkeys(notes)))
