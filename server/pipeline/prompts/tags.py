"""Tags in a prompt that name networks beside the model, such as ``<lora:name:0.8>`` (AUTOMATIC1111's extra networks)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from server.errors import quoted
from server.pipeline.fields import plain

_TAG = re.compile(r"<(lora|lyco|hypernet):([^<>]{0,500})>", re.IGNORECASE)
_LORAS = ("lora", "lyco")
#: A weight beyond this, in either direction, counts as this.
MOST_WEIGHT = 4.0


@dataclass(frozen=True)
class LoraTag:
    """A LoRA that a prompt names, and how much it counts; ``text_weight`` is that of the text encoders.

    written: the tag as the prompt has it, if it comes from one.
    """

    name: str
    weight: float = 1.0
    text_weight: float = 1.0
    written: str = field(default="", compare=False)

    def __str__(self) -> str:
        weights = (self.weight,) if self.weight == self.text_weight else (self.text_weight, self.weight)
        return f"<lora:{self.name}{''.join(f':{plain(weight)}' for weight in weights)}>"


@dataclass(frozen=True)
class Untagged:
    """A prompt without tags, the LoRAs that it names, and notes on tags that are not used."""

    prompt: str
    loras: tuple[LoraTag, ...] = ()
    notes: tuple[str, ...] = ()


def _weight(text: str) -> float | None:
    try:
        weight = float(text)
    except ValueError:
        return None
    return weight if math.isfinite(weight) else None


def _read(written: str, content: str) -> tuple[LoraTag | None, list[str]]:
    """Return the LoRA of a tag and its content, ``name:0.8``, ``name:text:unet`` or ``name:te=1:unet=0.5``, and notes."""
    name, *rest = (part.strip() for part in content.split(":"))
    placed = [part for part in rest if "=" not in part]
    named = dict((part.partition("=")[::2]) for part in rest if "=" in part)
    text = named.get("te", placed[0] if placed else "1")
    unet = named.get("unet", placed[1] if len(placed) > 1 else text)
    weights = []
    for each in (unet, text):
        weight = _weight(each)
        if weight is None:
            return None, [
                f"the weight {quoted(each)} of the lora {quoted(name)} is no number, and the lora is not used"
            ]
        weights.append(max(-MOST_WEIGHT, min(weight, MOST_WEIGHT)))
    notes = list[str]()
    if any(abs(float(each)) > MOST_WEIGHT for each in (unet, text)):
        notes.append(f"a weight of the lora {quoted(name)} is beyond {MOST_WEIGHT:g} and counts as {MOST_WEIGHT:g}")
    # A rank in A1111, and weights of blocks in an extension of it.
    if unused := [*placed[2:], *(f"{key}={value}" for key, value in named.items() if key not in ("te", "unet"))]:
        notes.append(f"{quoted(':'.join(unused))} of the lora {quoted(name)} is not supported and has no effect")
    unet_weight, text_weight = weights
    return LoraTag(name, unet_weight, text_weight, written), notes


def without_tags(prompt: str) -> Untagged:
    """Take the tags out of a prompt. There are no hypernetworks, so that each of their tags is noted as unknown."""
    loras, notes = list[LoraTag](), list[str]()
    for found in _TAG.finditer(prompt):
        if found[1].lower() not in _LORAS:
            notes.append(unknown(found[1].lower(), found[2].partition(":")[0].strip()))
            continue
        lora, told = _read(found[0], found[2])
        loras += [] if lora is None else [lora]
        notes += told
    return Untagged(_TAG.sub("", prompt).strip() if loras or notes else prompt, tuple(loras), tuple(notes))


def renamed(prompt: str, names: Mapping[str, str]) -> str:
    """Return a prompt whose tags name LoRAs by other names, given by the present ones; all else stays as it is."""

    def tag(found: re.Match[str]) -> str:
        name, colon, weights = found[2].partition(":")
        if found[1].lower() not in _LORAS or names.get(name.strip(), name.strip()) == name.strip():
            return found[0]
        return f"<{found[1]}:{names[name.strip()]}{colon}{weights}>"

    return _TAG.sub(tag, prompt)


def unknown(kind: str, name: str) -> str:
    """Return the note on a tag that names what is not here."""
    return f"the {kind} {quoted(name)} is not known here, and its tag was taken out of the prompt"
