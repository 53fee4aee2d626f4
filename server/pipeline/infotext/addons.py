"""The LoRAs and embeddings that an infotext names, found among the files here by name or, as in A1111, by their hashes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from converter.errors import AnemoneError
from server.errors import quoted
from server.pipeline.infotext.recovery import RequestFields
from server.pipeline.prompts.tags import LoraTag, renamed, without_tags
from server.pipeline.request import KnownAddons
from server.pipeline.request.addons import KnownLora
from server.pipeline.request.conditions import PLAIN
from server.pipeline.request.errors import RequestError

#: Fewer digits name too many files.
_FEWEST_DIGITS = 8


@dataclass(frozen=True)
class FoundAddons:
    """What an infotext's LoRAs and embeddings are here.

    fields: the request's fields, in which a LoRA of another name has the name that it has here. Those that are not here stay
        in the prompt's tags, and are not in ``loras``.
    missing: a sentence on each LoRA of a tag that is not here. notes: on the others, on other files of the same name, and on
        missing embeddings.
    """

    fields: dict[str, Any]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def find_addons(told: RequestFields, known: KnownAddons) -> FoundAddons:
    """Return what the LoRAs and embeddings of an infotext are among those that are known."""
    missing, notes, names = dict[str, None](), dict[str, None](), dict[str, str]()
    fields = dict(told.fields)
    listed = {item["name"] for item in fields.get("loras", ())}
    for name in _named(fields):
        digest = told.lora_hashes.get(_key(name))
        own = _own(name, known)
        same = own if own is not None and _is(digest, own.tensors_sha256, own.sha256) else _with_hash(digest, known)
        if same is not None:
            names[name] = same.name
        elif own is None:
            of = "" if digest is None else f", whose hash is {quoted(digest)[1:-1]},"
            told_of = notes if name in listed else missing
            told_of[f"the lora {quoted(name)}{of} is not installed"] = None
        else:
            notes[f"the lora {quoted(name)} is another file here than the one whose hash the image tells"] = None
    if fields.get("prompt_syntax") != PLAIN and "prompt" in fields:
        fields["prompt"] = renamed(fields["prompt"], names)
    if "loras" in fields:
        here = [{**item, "name": names.get(item["name"], item["name"])} for item in fields["loras"]]
        fields["loras"] = [item for item in here if _own(item["name"], known) is not None]
    notes |= dict.fromkeys(_embedding_notes(told.embedding_hashes, known))
    return FoundAddons(fields, tuple(missing), tuple(notes))


def _key(name: str) -> str:
    """Return a name as the hashes have it, without the characters that part them."""
    return name.replace(":", "").replace(",", "").strip()


def _named(fields: Mapping[str, Any]) -> Iterator[str]:
    tags: tuple[LoraTag, ...] = ()
    if fields.get("prompt_syntax") != PLAIN:
        tags = without_tags(fields.get("prompt", "")).loras
    yield from dict.fromkeys((*(item["name"] for item in fields.get("loras", ())), *(tag.name for tag in tags)))


def _own(name: str, known: KnownAddons) -> KnownLora | None:
    try:
        return known.lora("prompt", name)
    except RequestError:  # a damaged file; a request that names it says what is wrong
        return None


def _is(digest: str | None, *sums: str) -> bool:
    return digest is None or any(each.startswith(digest) for each in sums)


def _with_hash(digest: str | None, known: KnownAddons) -> KnownLora | None:
    if digest is None or len(digest) < _FEWEST_DIGITS:
        return None
    for name in known.loras:
        with suppress(AnemoneError):  # a damaged file
            lora = known.loras[name]
            if _is(digest, lora.tensors_sha256, lora.sha256):
                return lora
    return None


def _embedding_notes(hashes: Mapping[str, str], known: KnownAddons) -> Iterator[str]:
    by_name = {_key(name).casefold(): each for name, each in known.embeddings.items()}
    for name, digest in hashes.items():
        own = by_name.get(name.casefold())
        if own is not None and _is(digest, own.sha256):
            continue
        same = next((each for each in known.embeddings.values() if _is(digest, each.sha256)), None)
        if same is not None:
            yield f"the embedding {quoted(name)} is called {quoted(same.name)} here, which prompts have to name it by"
        elif own is not None:
            yield f"the embedding {quoted(name)} is another file here than the one whose hash the image tells"
        else:
            yield f"the embedding {quoted(name)} is not installed, and its name in a prompt is text"
