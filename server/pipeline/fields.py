"""Building blocks of a request's fields: types with limits, and the flat list of a nested request's fields."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    create_model,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from converter.folder import Manifest
from server.findings import accepted_by

_T = TypeVar("_T")


def _not_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    return value


# Numbers arrive as JSON numbers or, in forms, as text; pydantic would accept true as 1.
Whole = Annotated[int, BeforeValidator(_not_boolean)]
Real = Annotated[float, BeforeValidator(_not_boolean)]


class _FirstOnly(FailFast):
    """A list whose first wrong value ends its validation. pydantic's own marker cannot be part of a union: it has no hash."""

    def __hash__(self) -> int:
        return hash(self.fail_fast)


FIRST_ONLY = _FirstOnly()

# A form has one field for a whole list, separated by commas.
Wholes = Annotated[
    tuple[Whole, ...], FIRST_ONLY, BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value)
]


class LongText:
    """Stands for a text that is too long for any field; errors tell its length."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"{self._length} characters"


class _Missing:
    """Stands for the value of a field that is required and was not sent."""

    def __repr__(self) -> str:
        return "missing"


def value_and_reason(finding: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the rejected value and what is accepted, from one of pydantic's findings."""
    if finding["type"] == "missing":
        return _Missing(), accepted_by(finding)
    value = finding["input"]
    return LongText(len(value)) if finding["type"] == "string_too_long" else value, accepted_by(finding)


def path_of(finding: Mapping[str, Any]) -> str:
    """Return the field that one of pydantic's findings is about, such as ``steps`` or ``controls.0.weight``."""
    return ".".join(map(str, finding["loc"]))


#: The context of a validation that reads a stored request. It was accepted once, by limits that may have been others.
STORED = {"stored": True}


def unless_stored(check: Callable[[_T], _T]) -> AfterValidator:
    """Return a validator that leaves a stored request's value as it is."""

    def checked(value: _T, info: ValidationInfo) -> _T:
        return value if info.context is STORED else check(value)

    return AfterValidator(checked)


class Accepts:
    """A limit of a field's value. ``str()`` of it says what is accepted, in errors and in the command line's help."""

    def accepts(self, value: Any) -> bool:
        """Return whether the value is within the limit."""
        raise NotImplementedError

    def add_to(self, schema: dict[str, Any]) -> None:
        """Write the limit into the field's JSON schema."""

    def _checked(self, value: _T) -> _T:
        if not self.accepts(value):
            raise ValueError(str(self))
        return value

    def _unless_stored(self, value: _T, info: ValidationInfo) -> _T:
        return value if info.context is STORED else self._checked(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._unless_stored, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        json_schema = handler(schema)
        self.add_to(json_schema)
        return json_schema


@dataclass(frozen=True)
class Within(Accepts):
    """A range from ``low`` to ``high``; ``above`` excludes ``low`` itself."""

    low: float
    high: float
    above: bool = False

    def accepts(self, value: float) -> bool:
        """Return whether the number is in the range; NaN is not."""
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def add_to(self, schema: dict[str, Any]) -> None:
        """Write minimum and maximum."""
        schema["exclusiveMinimum" if self.above else "minimum"] = self.low
        schema["maximum"] = self.high

    def __str__(self) -> str:
        low, high = (int(bound) if bound == int(bound) else bound for bound in (self.low, self.high))
        return f"above {low} and at most {high}" if self.above else f"{low} to {high}"


@dataclass(frozen=True)
class OneOf(Accepts):
    """A choice between words."""

    words: tuple[str, ...]

    def accepts(self, value: str) -> bool:
        """Return whether the value is one of the words."""
        return value in self.words

    def add_to(self, schema: dict[str, Any]) -> None:
        """Write the words as an enumeration."""
        schema["enum"] = list(self.words)

    def __str__(self) -> str:
        return ", ".join(self.words)


class _Length(Accepts):
    """A limit of a value's length, which is checked before anything else looks at the value."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_before_validator_function(self._unless_stored, handler(source))


@dataclass(frozen=True)
class Characters(_Length):
    """A text of at most this many characters."""

    most: int

    def accepts(self, value: Any) -> bool:
        """Return whether the text is short enough; what is no text is left to the field's type."""
        return not isinstance(value, str | LongText) or len(value) <= self.most

    def _checked(self, value: _T) -> _T:
        if not self.accepts(value):
            raise PydanticKnownError("string_too_long", {"max_length": self.most})
        return value

    def add_to(self, schema: dict[str, Any]) -> None:
        """Write the length."""
        schema["maxLength"] = self.most

    def __str__(self) -> str:
        return f"up to {self.most} characters"


@dataclass(frozen=True)
class Count(_Length):
    """A list of ``low`` to ``high`` values; ``what`` names them. A form has the values in one text, separated by commas."""

    low: float
    high: float
    what: str

    def accepts(self, value: Any) -> bool:
        """Return whether so many values are accepted; what is no list is left to the field's type."""
        if isinstance(value, str):
            return self.low <= value.count(",") + 1 <= self.high
        return not isinstance(value, list | tuple) or self.low <= len(value) <= self.high

    def add_to(self, schema: dict[str, Any]) -> None:
        """Write the numbers of items."""
        schema["minItems"], schema["maxItems"] = self.low, self.high

    def __str__(self) -> str:
        return f"{self.low} to {self.high} {self.what}"


@dataclass(frozen=True)
class Items(_Length):
    """A list of up to ``most`` parts, which a form has as JSON. ``each`` is the singular; their attachments are named by it."""

    most: int
    each: str

    def accepts(self, value: Any) -> bool:
        """Return whether so many parts are accepted; what is no list is left to the field's type."""
        return not isinstance(value, list | tuple) or len(value) <= self.most

    @staticmethod
    def parsed(text: str) -> Any:
        """Return the list that a form's text is; raise ValueError if it is not JSON."""
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"a list of objects as JSON ({error})") from error

    def _checked(self, value: _T) -> _T:
        return super()._checked(self.parsed(value) if isinstance(value, str) else value)

    def add_to(self, schema: dict[str, Any]) -> None:
        """Write the number of items."""
        schema["maxItems"] = self.most

    def __str__(self) -> str:
        return f"up to {self.most} {self.each}s"


@dataclass(frozen=True)
class FromModel:
    """The field's default depends on the model; ``value`` reads it from the manifest."""

    value: Callable[[Manifest], Any]


@dataclass(frozen=True)
class Infotext:
    """The field's key in AUTOMATIC1111's parameters text, and the function that formats its value; None is not written."""

    key: str
    write: Callable[[Any], object] = lambda value: value


@dataclass(frozen=True)
class Attachment:
    """The field is the name of an attachment, whose bytes are sent with the request."""


@dataclass(frozen=True)
class Derived:
    """Clients do not set the field: the pipeline derives it when a request is accepted."""


class Part(BaseModel):
    """The fields of a request that belong to one concern.

    absent: for a part that a request may lack, what is accepted for its fields then.
    """

    model_config = ConfigDict(frozen=True)

    absent: ClassVar[str] = ""

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
        return next((m for m in self.info.metadata if isinstance(m, kind)), None)

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
