"""Fields of a request: their properties, and the flat list of a nested request's fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from converter.manifest import Manifest
from server.pipeline.limits import FIRST_ONLY, Accepts, Items

_T = TypeVar("_T")


@dataclass(frozen=True)
class FromModel:
    """The field's default depends on the model; ``value`` reads it from the manifest."""

    value: Callable[[Manifest], Any]


@dataclass(frozen=True)
class Infotext:
    """The field's key in AUTOMATIC1111's parameters text, and how its value is written there and read back.

    write: None is not written. read: returns the value, or a text that the field's type converts; raises ValueError, which
    says what is accepted.
    """

    key: str
    write: Callable[[Any], object] = lambda value: value
    read: Callable[[str], Any] = lambda text: text


def plain(value: float) -> str:
    """Return a number as people write it (7 and not 7.0), with every digit that it takes to read the same number back."""
    return str(int(value)) if value == int(value) else repr(value)


def unless(usual: Any) -> Callable[[Any], object]:
    """Return a function that writes a number or a name into an infotext, but not the usual value, which says nothing."""
    return lambda value: None if value == usual else plain(value) if isinstance(value, float) else value


def named(key: str, names: Mapping[Any, str], usual: Any = None, synonyms: Mapping[str, Any] | None = None) -> Infotext:
    """Return the infotext of a field whose values have names there; the usual value is not written.

    ``synonyms`` are further names that are read.
    """
    values = {name.lower(): value for value, name in names.items()}
    values |= {name.lower(): value for name, value in (synonyms or {}).items()}

    def write(value: Any) -> object:
        return None if value == usual else names.get(value, value)

    def read(text: str) -> Any:
        if text.lower() not in values:
            raise ValueError(", ".join(names.values()))
        return values[text.lower()]

    return Infotext(key, write, read)


@dataclass(frozen=True)
class Attachment:
    """The field is the name of an attachment, whose bytes are sent with the request."""


@dataclass(frozen=True)
class Derived:
    """Clients do not set the field: the pipeline derives it when a request is accepted."""


class Part(BaseModel):
    """The fields of a request that belong to one concern.

    absent: for a part that a request may lack, what is accepted for its fields then.
    word: for an item of a list, the fields whose values a word of the command line may have, with colons between them.
    """

    model_config = ConfigDict(frozen=True)

    absent: ClassVar[str] = ""
    word: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def is_asked(cls, sent: Mapping[str, Any]) -> bool:
        """Return whether a request with these fields has the part: whether those without a default were sent."""
        return all(name in sent for name, info in cls.model_fields.items() if info.is_required())


_PartType: TypeAlias = type[Part]


@dataclass(frozen=True)
class RequestField:
    """A field that clients set. ``part`` is the request's attribute that contains it; None if the request itself does."""

    name: str
    part: str | None
    info: FieldInfo

    def find(self, kind: type[_T]) -> _T | None:
        """Return the field's metadata of this type; None if it has none."""
        # Those of ``Annotated[int, ...] | None`` are inside its type.
        optional = (m for inner in get_args(self.info.annotation) for m in getattr(inner, "__metadata__", ()))
        return next((m for m in (*self.info.metadata, *optional) if isinstance(m, kind)), None)

    @property
    def type(self) -> Any:
        """The type with its limits, as pydantic takes it."""
        return Annotated[(self.info.annotation, *self.info.metadata)] if self.info.metadata else self.info.annotation

    @property
    def is_list(self) -> bool:
        """Whether the field has several values."""
        return "tuple" in str(self.info.annotation)

    @property
    def item(self) -> _PartType | None:
        """The part that the field is a list of; None for a single value and a list of values."""
        kinds = get_args(self.info.annotation)
        return next((k for k in kinds if isinstance(k, type) and issubclass(k, Part)), None)

    @property
    def item_fields(self) -> tuple[RequestField, ...]:
        """The fields of each item; none for a single value and a list of values."""
        return () if self.item is None else tuple(fields_of(self.item))

    @property
    def is_attachment(self) -> bool:
        """Whether the field is an attachment's name."""
        return self.find(Attachment) is not None

    @property
    def about(self) -> str:
        """The description and the accepted values, in one line."""
        accepted = self.find(Accepts)
        return f"{self.info.description}{'' if accepted is None else f' ({accepted})'}"


def part_of(info: FieldInfo) -> type[Part] | None:
    """Return the part that a request's field holds; None if it holds a value."""
    kinds = (info.annotation, *get_args(info.annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Part)), None)


def fields_of(request: type[Part]) -> Iterator[RequestField]:
    """Yield the fields that clients may set. A part's fields take the place of the part; a list of parts is one field."""
    for name, info in request.model_fields.items():
        field = RequestField(name, None, info)
        part = None if field.find(Items) else part_of(info)
        if field.find(Derived):
            continue
        if part is None:
            yield field
        else:
            inside = (RequestField(inner, name, inner_info) for inner, inner_info in part.model_fields.items())
            yield from (inner for inner in inside if not inner.find(Derived))


def values_of(request: Part, fields: Iterable[RequestField]) -> dict[str, Any]:
    """Return a request's values of these fields, by name, without attachments and None."""
    values: dict[str, Any] = {}
    for field in fields:
        part = request if field.part is None else getattr(request, field.part)
        value = None if part is None or field.is_attachment else getattr(part, field.name)
        if field.item is not None:
            value = [values_of(item, field.item_fields) for item in value or ()]
        if value is not None:
            values[field.name] = value
    return values


def asked_fields(
    fields: Iterable[RequestField],
    base: type[BaseModel],
    required: Callable[[RequestField], bool],
    attachment: Any = str,
) -> dict[str, Any]:
    """Return definitions for pydantic's ``create_model`` of fields as clients send them; ``required`` says which must be sent.

    Another one that is left out, or null, takes its default when the request is bound. ``base`` is the class of lists' items,
    ``attachment`` the type in which attachments are sent.
    """
    definitions: dict[str, Any] = {}
    for field in fields:
        asked = attachment if field.is_attachment else field.type
        if field.item is not None:
            items = asked_fields(field.item_fields, base, lambda f: f.info.is_required(), attachment)
            item = create_model(field.item.__name__, __base__=base, __doc__=field.item.__doc__, **items)
            asked = Annotated[(tuple[item, ...], FIRST_ONLY, *field.info.metadata)]
        is_required = required(field)
        definitions[field.name] = (
            asked if is_required else asked | None,
            Field(... if is_required else None, description=field.info.description),
        )
    return definitions


def place_of(fields: Iterable[RequestField], attachment: str) -> str:
    """Return the field of an attachment's name (see `without_attachments`): ``controls.0.image`` of ``control_0_image``."""
    for field in fields:
        items = field.find(Items)
        if items is not None and (found := re.fullmatch(rf"{items.each}_(\d+)_(\w+)", attachment)):
            return f"{field.name}.{found[1]}.{found[2]}"
    return attachment


def without_attachments(
    fields: Iterable[RequestField], values: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a request's values with the names of its attachments in place of their content, and the content by name.

    An attachment is named as its field is; that of a list's item also by the item: ``control_0_image``.
    """
    attachments: dict[str, Any] = {}

    def named(fields: Iterable[RequestField], values: Mapping[str, Any], start: str) -> dict[str, Any]:
        result = dict(values)
        for field in fields:
            value, items = values.get(field.name), field.find(Items)
            if value is None:
                continue
            if items is not None:
                parts = ((f"{start}{items.each}_{i}_", item) for i, item in enumerate(value))
                result[field.name] = [named(field.item_fields, item, prefix) for prefix, item in parts]
            elif field.is_attachment:
                result[field.name] = start + field.name
                attachments[start + field.name] = value
        return result

    return named(fields, values, ""), attachments
