"""LoRAs and embeddings: files beside a model that change what its networks compute, and what a model must be for them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import Field

from converter.errors import AnemoneError
from converter.manifest import Manifest
from server.errors import listed
from server.pipeline.fields import Derived, Part, plain
from server.pipeline.limits import Items, Real, Within
from server.pipeline.prompts.embedded import is_plain
from server.pipeline.prompts.tags import MOST_WEIGHT, LoraTag, unknown, without_tags
from server.pipeline.request.conditions import NAME, PLAIN
from server.pipeline.request.errors import RequestError

#: LoRAs of a request: each costs its share of the time that merging takes.
LORAS = Items(8, "lora")
_WEIGHT = Within(-MOST_WEIGHT, MOST_WEIGHT)
_PROMPTS = ("prompt", "negative_prompt")
#: Notes on tags. A prompt has room for a thousand, and each is stored for itself.
_MOST_NOTES = 10


class Lora(Part):
    """A LoRA that is merged into the model for this request (Hu et al. 2021).

    sha256: the hash of its file, and of settings beside it, when the request was accepted. tensors_sha256: that of its tensors alone.
    """

    name: str = Field(max_length=NAME, description="One of the LoRAs (see capabilities)")
    weight: Annotated[Real, _WEIGHT] = Field(1.0, description="How much it counts")
    text_weight: Annotated[Real, _WEIGHT] | None = Field(
        None, description="How much it counts in the text encoders; left out: as weight"
    )
    sha256: Annotated[str, Derived()] = ""
    tensors_sha256: Annotated[str, Derived()] = ""

    word: ClassVar[tuple[str, ...]] = ("name", "weight", "text_weight")

    @property
    def of_text(self) -> float:
        """How much it counts in the text encoders."""
        return self.weight if self.text_weight is None else self.text_weight

    @property
    def has_effect(self) -> bool:
        """Whether it changes a network."""
        return self.weight != 0 or self.of_text != 0

    @property
    def tag(self) -> str:
        """The tag that stands for it in a prompt."""
        return str(LoraTag(self.name, self.weight, self.of_text))


class Embedding(Part):
    """An embedding whose words a prompt has (textual inversion, Gal et al. 2022).

    sha256: the hash of its file when the request was accepted.
    words: what stands for it in a prompt.
    vectors: how many tokens it takes.
    """

    name: str
    sha256: str
    words: tuple[str, ...]
    vectors: int


class FewStep(Protocol):
    """What a LoRA for few steps was trained for."""

    @property
    def steps(self) -> int: ...

    @property
    def guidance_scale(self) -> float: ...

    @property
    def scheduler(self) -> str: ...


class KnownAddon(Protocol):
    """The facts of a file.

    families: the names of the model families that it fits.
    text_width: the width of the prompt's states in the models that it fits; None if the file does not show it.
    """

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def families(self) -> tuple[str, ...]: ...

    @property
    def text_width(self) -> int | None: ...


class KnownLora(KnownAddon, Protocol):
    """A LoRA's facts. tensors_sha256: of its tensors alone. few_step: None unless it is one for few steps."""

    @property
    def tensors_sha256(self) -> str: ...

    @property
    def few_step(self) -> FewStep | None: ...


class KnownEmbedding(KnownAddon, Protocol):
    """An embedding's facts."""

    @property
    def words(self) -> tuple[str, ...]: ...

    @property
    def vectors(self) -> int: ...


def _folded(name: str) -> str:
    """Return a name without its case; letters with accents are one character, which files from Macs have as two."""
    return unicodedata.normalize("NFC", name).casefold()


@dataclass(frozen=True)
class KnownAddons:
    """The files that requests may name, by name. Reading a value raises AnemoneError for a damaged file."""

    loras: Mapping[str, KnownLora] = field(default_factory=dict)
    embeddings: Mapping[str, KnownEmbedding] = field(default_factory=dict)

    @cached_property
    def _by_case(self) -> Mapping[str, str]:
        return {_folded(name): name for name in self.loras}

    def lora(self, field: str, name: str) -> KnownLora | None:
        """Return a LoRA by its name, in any case; None if there is none. Raises RequestError for a damaged one."""
        own = name if name in self.loras else self._by_case.get(_folded(name))
        try:
            return None if own is None else self.loras[own]
        except AnemoneError as error:
            raise RequestError(field, name, f"another one: {error}") from error


NO_ADDONS = KnownAddons()


@dataclass(frozen=True)
class BoundAddons:
    """What a request's LoRAs and embeddings mean for it.

    prompts: the prompts without tags, by field. usual: the defaults that the LoRAs bring.
    """

    prompts: Mapping[str, str]
    loras: tuple[Lora, ...]
    embeddings: tuple[Embedding, ...]
    usual: Mapping[str, Any]
    notes: tuple[str, ...]


def misfit(known: KnownAddon, manifest: Manifest) -> tuple[str, str] | None:
    """Return what a file is for and what the model is; None if the file fits the model."""
    if manifest.family not in known.families:
        return " or ".join(known.families), manifest.family
    width = manifest.conditions.text_width
    if None not in (width, known.text_width) and width != known.text_width:
        of = "{} with text states of {} numbers".format
        return of(manifest.family, known.text_width), of(manifest.family, width)
    return None


def fits(known: KnownAddon, manifest: Manifest) -> bool:
    """Return whether a file can be merged into a model, as far as the file and the manifest show it."""
    return manifest.no_base is None and misfit(known, manifest) is None


def _fitting(field_name: str, asked: str, known: KnownAddon, manifest: Manifest) -> None:
    """Raise RequestError for a file that does not fit the model, or if nothing can be merged into it."""
    if manifest.no_base is not None:
        raise RequestError(field_name, asked, f"none: {manifest.name} {manifest.no_base}")
    if (wrong := misfit(known, manifest)) is not None:
        file, model = wrong
        raise RequestError(field_name, asked, f"LoRAs for {model}, as {manifest.name} is; this one is for {file}")


def _named(sent: Mapping[str, Any], manifest: Manifest, known: KnownAddons) -> Iterator[tuple[Lora, KnownLora]]:
    """Yield the LoRAs that the request lists; raises RequestError for an unknown one and one for other models."""
    for index, item in enumerate(sent.get("loras", ())):
        field_name = f"loras.{index}.name"
        lora = known.lora(field_name, item["name"])
        if lora is None:
            there = listed(tuple(_usable(manifest, known)))
            raise RequestError(field_name, item["name"], there or f"none: there are no LoRAs for {manifest.name} yet")
        _fitting(field_name, item["name"], lora, manifest)
        weight = item.get("weight", 1.0)
        yield _lora(lora, weight, item.get("text_weight", weight)), lora


def _usable(manifest: Manifest, known: KnownAddons) -> Iterator[str]:
    """Yield the names of the LoRAs that fit the model and are not damaged."""
    for name in known.loras:
        with suppress(AnemoneError):
            if fits(known.loras[name], manifest):
                yield name


def _lora(known: KnownLora, weight: float, text_weight: float) -> Lora:
    own = None if text_weight == weight else text_weight
    return Lora(
        name=known.name, weight=weight, text_weight=own, sha256=known.sha256, tensors_sha256=known.tensors_sha256
    )


def bind_addons(sent: Mapping[str, Any], manifest: Manifest, known: KnownAddons) -> BoundAddons:
    """Return the LoRAs and embeddings that a request's fields name, by the list and by tags in its prompts.

    A tag of an unknown LoRA is noted, as in A1111, where prompts are copied with their tags. Raises RequestError for an
    unknown one in the list, for one of another family, and for too many.
    """
    found = list(_named(sent, manifest, known))
    prompts, notes = {name: sent[name] for name in _PROMPTS if name in sent}, list[str]()
    if sent.get("prompt_syntax") != PLAIN:
        for name, text in prompts.items():
            untagged = without_tags(text)
            prompts[name] = untagged.prompt
            notes += untagged.notes
            for tag in untagged.loras:
                lora = known.lora(name, tag.name)
                if lora is None:
                    notes.append(unknown("lora", tag.name))
                elif name != "prompt":
                    notes.append(f"the lora {lora.name} has no effect in a negative prompt, and its tag was taken out")
                else:
                    _fitting("prompt", tag.written, lora, manifest)
                    found.append((_lora(lora, tag.weight, tag.text_weight), lora))
    if not LORAS.accepts(found):
        raise RequestError("loras", [lora.name for lora, _ in found], f"{LORAS}, with those of tags in the prompt")
    notes = [*dict.fromkeys(notes)]
    if len(notes) > _MOST_NOTES:
        notes = [*notes[:_MOST_NOTES], f"and {len(notes) - _MOST_NOTES} more notes on tags like these"]
    notes += (f"the lora {lora.name} has no effect: its weight is 0" for lora, _ in found if not lora.has_effect)
    usual, told = _usual(found, sent)
    embeddings = tuple(_embeddings(prompts.values(), manifest, known.embeddings.values(), notes))
    return BoundAddons(
        prompts,
        tuple(lora for lora, _ in found),
        embeddings,
        usual,
        (*notes, *told),
    )


def _usual(found: Iterable[tuple[Lora, KnownLora]], sent: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the defaults of a LoRA for few steps, the first of them, and a note on those that the request leaves to it."""
    for lora, known in found:
        few = known.few_step
        if few is None or not lora.has_effect:
            continue
        usual = {"steps": few.steps, "guidance_scale": few.guidance_scale, "scheduler": few.scheduler}
        taken = {name: value for name, value in usual.items() if name not in sent}
        values = ", ".join(f"{name} {plain(v) if isinstance(v, float) else v}" for name, v in taken.items())
        return taken, (
            f"the lora {lora.name} is for few steps, and set what the request does not: {values}",
        ) if taken else ()
    return {}, ()


def _is_in(word: str, text: str) -> bool:
    """Return whether a word of an embedding is in a prompt, in any case and not as part of a longer word."""
    first, *_ = word.split()
    if first.casefold() not in text.casefold():  # an expression takes 0.1 ms to be compiled, and there may be hundreds
        return False
    spaced = r"\s+".join(map(re.escape, word.split()))
    return re.search(rf"(?<!\w){spaced}(?!\w)" if is_plain(word) else spaced, text, re.IGNORECASE) is not None


def _embeddings(
    prompts: Iterable[str], manifest: Manifest, known: Iterable[KnownEmbedding], notes: list[str]
) -> Iterator[Embedding]:
    """Yield the embeddings whose words are in the prompts; a word of one for other models is noted, and is text."""
    text = "\n".join(prompts)
    merged = None if manifest.merged is None else {each.name for each in manifest.merged.embeddings}
    for each in known:
        if not any(_is_in(word, text) for word in each.words):
            continue
        if merged is not None:  # its own embeddings have their words already
            if each.name not in merged:
                notes.append(f"{manifest.name} is a merged model without the embedding {each.name}: its name is text")
            continue
        if manifest.no_base is not None:
            notes.append(f"{manifest.name} {manifest.no_base}: the name of the embedding {each.name} is text")
        elif (wrong := misfit(each, manifest)) is None:
            yield Embedding(name=each.name, sha256=each.sha256, words=each.words, vectors=each.vectors)
        else:
            file, model = wrong
            notes.append(f"the embedding {each.name} is for {file}, not for {model}: its name in a prompt is text")
