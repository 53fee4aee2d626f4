"""Turns an infotext into the fields of the request that makes its image again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from server.pipeline.fields import Infotext, RequestField
from server.pipeline.infotext.controls import is_unit, read_unit, without_hash
from server.pipeline.infotext.hires import read_size, read_sizes
from server.pipeline.infotext.parameters import Parameters, Unused
from server.pipeline.infotext.sampler import SAMPLER, SCHEDULE, read_sampler
from server.pipeline.infotext.writing import EMBEDDING_HASHES, LORA_HASHES, PROGRAM
from server.pipeline.limits import Items
from server.pipeline.prompts.tags import without_tags
from server.pipeline.request import FIELDS, UPSCALE_FIELDS, RequestError
from server.pipeline.request.conditions import PLAIN
from server.pipeline.request.errors import SentFields
from server.pipeline.request.request import OPTIONAL_PARTS, task_of
from server.pipeline.upscaling.names import LATENT, from_a1111

_SENT = SentFields((*FIELDS, *(f for f in UPSCALE_FIELDS if f.name in ("upscaler", "scale"))), lambda field: False)
_KEYS = {field.name: infotext.key for field in FIELDS if (infotext := field.find(Infotext)) is not None}
_MOST_CONTROLS = next(i.most for field in FIELDS if field.name == "controls" and (i := field.find(Items)) is not None)
#: A1111's generator unless the text names one (infotext_utils.py).
_A1111_RNG = "GPU"
#: The setting that img2img and hires fix share.
_STRENGTH = "Denoising strength"
#: The sizes that hires fix may have in place of a scale.
_FIRST_PASS, _RESIZE = "First pass size", "Hires resize"
#: Parts of a source image that need the image, too.
_PAINTING = {"mask", "outpaint"}
_UPSCALER = "Postprocess upscaler"
#: Settings that say nothing of how the image is made.
_SILENT = ("Version", "App", "Batch size", "Batch pos", "User", "Created Date")
_NO_FIELD = "requests have no such field"


@dataclass(frozen=True)
class RequestFields:
    """The request that an infotext tells.

    task: the name of the task that takes it, ``upscale`` among them.
    fields: the fields' values by name, without the model and without attachments.
    attachments: the images that the request had and no text can hold, by field: ``image``, ``mask``, ``controls.0.image``.
    unused: the settings that no field has, or whose value no field takes.
    lora_hashes, embedding_hashes: the first digits of their SHA-256 by name, as far as the text tells them.
    model, model_hash: the model's name, and the first digits of its checkpoint's SHA-256 (A1111 before 1.0: another hash).
    """

    task: str
    fields: dict[str, Any]
    attachments: tuple[str, ...]
    unused: tuple[Unused, ...]
    model: str | None
    model_hash: str | None
    lora_hashes: Mapping[str, str]
    embedding_hashes: Mapping[str, str]


def read_request_fields(parameters: Parameters, attached: Collection[str] | None = None) -> RequestFields:
    """Return the request that the parameters tell.

    ``attached``: the attachments that the client has, as `RequestFields.attachments` names them; what belongs to others is
    then left out and among what is not used. None: the request is as it was.
    """
    reading = _Reading(parameters, attached)
    if _UPSCALER in parameters.settings and "Steps" not in parameters.settings:
        return reading.upscaling()
    return reading.generation()


class _Reading:
    """One infotext being read: the settings that are left, the fields found so far, and what was not used."""

    def __init__(self, parameters: Parameters, attached: Collection[str] | None) -> None:
        self._prompts = {"prompt": parameters.prompt, "negative_prompt": parameters.negative_prompt}
        self._left = dict(parameters.settings)
        self._attached = attached
        self._fields: dict[str, Any] = {}
        self._attachments: list[str] = []
        self._unused: list[Unused] = []
        version, app = self._left.get("Version", ""), self._left.get("App", "")
        self._own = version.startswith(PROGRAM)
        # SD.Next runs diffusers, whose schedulers have the model's own spacing, too.
        self._as_model_says = self._own or app.startswith("SD.Next")

    def generation(self) -> RequestFields:
        """Return the request to generate."""
        for name, text in self._prompts.items():
            if text or name == "prompt":
                self._put(name, text, name)
        fields, unused = read_sampler(self._pop(SAMPLER), self._pop(SCHEDULE), as_model_says=self._as_model_says)
        self._fields |= fields
        self._unused += unused
        self._seed()
        parts = self._parts()
        self._size(extended="outpaint" in parts)
        if "hires" in parts:
            self._second_pass()
        for field in FIELDS:
            if field.part not in OPTIONAL_PARTS or field.part in parts:
                self._field(field)
        self._without_incomplete(parts)
        self._controls()
        if self._own and self._fields.get("prompt_syntax") == PLAIN:
            self._loras()
        model, model_hash = self._model_name(self._pop("Model") or ""), self._pop("Model hash")
        task = task_of({**dict.fromkeys(parts, True), "prompts": self._fields})
        return self._result(task, model, model_hash)

    def upscaling(self) -> RequestFields:
        """Return the request to enlarge an image."""
        self._put("upscaler", self._left.pop(_UPSCALER), _UPSCALER)
        size, scale = read_size(self._pop("Size") or ""), self._pop("Postprocess upscale by")
        if self._own and size is not None:
            self._fields |= dict(zip(("width", "height"), size, strict=True))
        elif scale is not None:
            self._put("scale", scale, "Postprocess upscale by")
        self._attachments.append("image")
        return self._result("upscale", None, None)

    def _result(self, task: str, model: str | None, model_hash: str | None) -> RequestFields:
        hashes = [_hashes(self._pop(key) or "") for key in (LORA_HASHES, EMBEDDING_HASHES)]
        for name, value in self._left.items():
            if name not in _SILENT:
                self._refuse(name, value, _NO_FIELD)
        attachments, unused = tuple(self._attachments), tuple(self._unused)
        return RequestFields(task, self._fields, attachments, unused, model or None, model_hash or None, *hashes)

    def _refuse(self, name: str, value: str, why: str) -> None:
        self._unused.append(Unused(name, value, why))

    def _put(self, field: str, value: Any, key: str) -> None:
        """Add a field's value, unless the field does not accept it."""
        try:
            self._fields |= _SENT.validated({field: value})
        except RequestError as error:
            self._refuse(key, str(value), f"accepted: {error.accepted}")

    def _model_name(self, text: str) -> str:
        return text if self._own else without_hash(text)

    def _pop(self, key: str) -> str | None:
        return self._left.pop(key, None)

    def _seed(self) -> None:
        seed = self._pop("Seed")
        if seed is None:
            for key in ("Variation seed", "Variation seed strength"):
                if (text := self._pop(key)) is not None:
                    self._refuse(key, text, "there is no Seed")
            return
        self._put("seed", seed, "Seed")
        self._left.setdefault(_KEYS["rng"], _A1111_RNG)
        variation, strength = self._pop("Variation seed"), self._pop("Variation seed strength")
        if strength is not None:
            self._put("variation_strength", strength, "Variation seed strength")
        if variation is not None:
            self._put("variation_seed", variation, "Variation seed")

    def _parts(self) -> set[str]:
        """Return the names of the parts that the request has, and note the images that they need."""
        own = {
            part: {_KEYS[f.name] for f in _fields_of(part) if f.name in _KEYS} - {_STRENGTH} for part in OPTIONAL_PARTS
        }
        own["hires"] |= {_FIRST_PASS, _RESIZE}
        found = {part for part, keys in own.items() if keys & self._left.keys()}
        if found & _PAINTING:
            found = (found | {"source"}) - {"hires"}
        elif "hires" not in found and _STRENGTH in self._left:
            if self._left[_STRENGTH] in ("0", "0.0"):
                # A1111's API has it in the texts of txt2img, too.
                self._refuse(_STRENGTH, self._left.pop(_STRENGTH), "at 0 nothing changes")
            else:
                found.add("source")
        return {part for part in OPTIONAL_PARTS if part in found and self._has_attachments(part)}

    def _has_attachments(self, part: str) -> bool:
        """Note the images that a part needs; if the client lacks one, return False, and its settings are not used."""
        needed = [f.name for f in _fields_of(part) if f.is_attachment]
        if part in _PAINTING:
            needed.append("image")
        lacking = [name for name in needed if self._attached is not None and name not in self._attached]
        if lacking:
            for field in _fields_of(part):
                if (text := self._pop(_KEYS.get(field.name, ""))) is not None:
                    self._refuse(_KEYS[field.name], text, f"there is no {lacking[0]}")
        else:
            self._attachments += (name for name in needed if name not in self._attachments)
        return not lacking

    def _size(self, *, extended: bool) -> None:
        """Add width and height; an extended image's follow from its source's."""
        text = self._pop("Size")
        if text is None or extended:
            return
        size = read_size(text)
        if size is None:
            self._refuse("Size", text, "accepted: a width and a height, such as 512x512")
            return
        for name, side in zip(("width", "height"), size, strict=True):
            self._put(name, side, "Size")

    def _second_pass(self) -> None:
        first, resize = self._pop(_FIRST_PASS), self._pop(_RESIZE)
        size = (self._fields["width"], self._fields["height"]) if {"width", "height"} <= self._fields.keys() else None
        upscaler = self._left.get(_KEYS["hires_upscaler"], "")
        if from_a1111(upscaler) == LATENT != upscaler.lower():
            self._refuse(
                _KEYS["hires_upscaler"], upscaler, f"{LATENT} is in its place, which interpolates in one way only"
            )
        passes = read_sizes(size, read_size(first or ""), read_size(resize or ""))
        if passes is None or _KEYS["hires_scale"] in self._left:
            return
        for name, side in zip(("width", "height"), passes.first or (), strict=False):
            self._put(name, side, _FIRST_PASS)
        self._left[_KEYS["hires_scale"]] = str(passes.scale)
        if not passes.exact:
            name, text = (_RESIZE, resize) if first is None else (_FIRST_PASS, first)
            self._refuse(name, str(text), "the second pass keeps the ratio of the first")

    def _field(self, field: RequestField) -> None:
        infotext = field.find(Infotext)
        text = None if infotext is None else self._pop(infotext.key)
        if infotext is None or text is None:
            return
        if field.name == "refiner":
            text = self._model_name(text)
        try:
            value = infotext.read(text)
        except ValueError as error:
            self._refuse(infotext.key, text, f"accepted: {error}")
        else:
            self._put(field.name, value, infotext.key)

    def _without_incomplete(self, parts: set[str]) -> None:
        """Leave out the parts that lack a required field, such as hires fix without its scale."""
        for part in [*parts]:
            if OPTIONAL_PARTS[part].is_asked(self._fields | dict.fromkeys(self._attachments, "")):
                continue
            parts.discard(part)
            for field in _fields_of(part):
                if field.name in self._fields:
                    self._refuse(_KEYS[field.name], str(self._fields.pop(field.name)), f"there is no usable {part}")

    def _controls(self) -> None:
        controls: list[dict[str, Any]] = []
        for key in [each for each in self._left if is_unit(each)]:
            text = self._left.pop(key)
            fields, unused = read_unit(key, text)
            image = f"controls.{len(controls)}.image"
            if len(controls) == _MOST_CONTROLS:
                self._refuse(key, text, f"a request has up to {_MOST_CONTROLS} controls")
                continue
            if fields is not None and self._attached is not None and image not in self._attached:
                self._refuse(key, text, f"there is no {image}")
                continue
            self._unused += unused
            if fields is not None:
                controls.append(self._control(key, fields))
                self._attachments.append(image)
        if controls:
            self._fields["controls"] = controls

    def _loras(self) -> None:
        """Turn the tags at the end of our own text's prompt into the request's LoRAs: they are text in a plain prompt."""
        prompt, loras = self._fields["prompt"], list[dict[str, Any]]()
        while prompt.endswith(">") and (at := prompt.rfind(" <lora:")) >= 0:
            (tag,) = without_tags(prompt[at:]).loras or (None,)
            if tag is None:
                break
            loras.insert(0, {"name": tag.name, "weight": tag.weight, "text_weight": tag.text_weight})
            prompt = prompt[:at]
        if loras:
            self._fields |= {"prompt": prompt, "loras": loras}

    def _control(self, key: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the fields that a control accepts."""
        accepted: dict[str, Any] = {}
        for name, value in fields.items():
            try:
                (control,) = _SENT.validated({"controls": [{"image": "", name: value}]})["controls"]
                accepted[name] = control[name]
            except RequestError as error:
                self._refuse(f"{key}: {name}", str(value), f"accepted: {error.accepted}")
        return accepted


def _fields_of(part: str) -> tuple[RequestField, ...]:
    return tuple(field for field in FIELDS if field.part == part)


def _hashes(text: str) -> dict[str, str]:
    """Return short hashes by name, of ``name: hash, name: hash``."""
    pairs = (part.rpartition(":")[::2] for part in text.split(","))
    return {name.strip(): digest.strip().lower() for name, digest in pairs if name.strip() and digest.strip()}
