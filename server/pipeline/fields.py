"""The parts of a request's fields: types with their limits, and the flat list of a nested request's fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from converter.folder import Manifest

_T = TypeVar("_T")


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    return value


# Numbers come as JSON's or, in forms, as text; pydantic would take true for 1.
Whole = Annotated[int, BeforeValidator(_no_flag)]
Real = Annotated[float, BeforeValidator(_no_flag)]
# A form has one field for all of a list, with commas between.
Wholes = Annotated[
    tuple[Whole, ...], BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value)
]


class Accepts:
    """A limit of a field's value. Its text says what is accepted, in errors and in the command line's help."""

    def accepts(self, value: Any) -> bool:
        """Return whether the value is within the limit."""
        raise NotImplementedError

    def add_to(self, schema: dict[str, Any]) -> None:
        """Write the limit into the field's JSON schema."""

    def _checked(self, value: _T) -> _T:
        if not self.accepts(value):
            raise ValueError(str(self))
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        self.add_to(found)
        return found


@dataclass(frozen=True)
class Within(Accepts):
    """From ``low`` to ``high``; ``low`` itself only where ``above`` is not set."""

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
        return f"above {self.low:g} and at most {self.high:g}" if self.above else f"{self.low} to {self.high}"


@dataclass(frozen=True)
class OneOf(Accepts):
    """One of some words."""

    words: tuple[str, ...]

    def accepts(self, value: str) -> bool:
        """Return whether it is one of them."""
        return value in self.words

    def add_to(self, schema: dict[str, Any]) -> None:
        """Write the words as an enumeration."""
        schema["enum"] = list(self.words)

    def __str__(self) -> str:
        return ", ".join(self.words)


@dataclass(frozen=True)
class Characters(Accepts):
    """Up to so many characters."""

    most: int

    def accepts(self, value: str) -> bool:
        """Return whether the text is short enough."""
        return len(value) <= self.most

    def add_to(self, schema: dict[str, Any]) -> None:
        """Write the length."""
        schema["maxLength"] = self.most

    def __str__(self) -> str:
        return f"up to {self.most} characters"


@dataclass(frozen=True)
class FromModel:
    """The default of a field that each model has its own of."""

    value: Callable[[Manifest], Any]


@dataclass(frozen=True)
class Infotext:
    """The field's key in AUTOMATIC1111's parameters text, and how its value is written there."""

    key: str
    write: Callable[[Any], object] = lambda value: value


@dataclass(frozen=True)
class Attachment:
    """The field names an attachment: bytes that come beside the request."""


@dataclass(frozen=True)
class Derived:
    """The field is not asked for: the pipeline derives it when a request is accepted."""


class Part(BaseModel):
    """The fields of a request that belong to one concern."""

    model_config = ConfigDict(frozen=True)


@dataclass(frozen=True)
class RequestField:
    """A field as a client asks for it. ``part`` is the attribute of the request that holds it; None for the request."""

    name: str
    part: str | None
    info: FieldInfo

    def find(self, kind: type[_T]) -> _T | None:
        """Return what the definition says of this kind."""
        return next((m for m in self.info.metadata if isinstance(m, kind)), None)

    @property
    def type(self) -> Any:
        """The type with its limits, as pydantic takes it."""
        return Annotated[(self.info.annotation, *self.info.metadata)] if self.info.metadata else self.info.annotation

    @property
    def python_type(self) -> Any:
        """The type of the value, or of a list's values."""
        found = self.info.annotation
        while (origin := get_origin(found)) is not None:
            found = next(a for a in get_args(found) if a is not type(None)) if origin in _WRAPPERS else origin
        return found

    @property
    def is_list(self) -> bool:
        """Whether it has several values."""
        return "tuple" in str(self.info.annotation)

    @property
    def about(self) -> str:
        """What it is and what it accepts, in one line."""
        accepted = self.find(Accepts)
        return f"{self.info.description}{'' if accepted is None else f' ({accepted})'}"


_WRAPPERS = (Union, UnionType, Annotated, tuple)


def _part_of(info: FieldInfo) -> type[Part] | None:
    kinds = (info.annotation, *get_args(info.annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Part)), None)


def fields_of(request: type[Part]) -> Iterator[RequestField]:
    """Yield the fields that clients may ask for, those of the request's parts in their place."""
    for name, info in request.model_fields.items():
        part = _part_of(info)
        if any(isinstance(m, Derived) for m in info.metadata):
            continue
        if part is None:
            yield RequestField(name, None, info)
        else:
            yield from (RequestField(inner, name, found) for inner, found in part.model_fields.items())
