"""Types and limits of a request's values, and the words in which a wrong value is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    FailFast,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
)
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from server.findings import accepted_by

_T = TypeVar("_T")


def _not_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    return value


# Numbers arrive as JSON numbers or, in forms, as text; pydantic would accept true as 1.
NOT_BOOLEAN = BeforeValidator(_not_boolean)
Whole = Annotated[int, NOT_BOOLEAN]
Real = Annotated[float, NOT_BOOLEAN]


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


def first_repeated(named: Iterable[tuple[str, Any]]) -> str | None:
    """Return the first name that came before; None if all differ.

    In one walk: with a count for each name, 120 kB of names held up the server for 1.4 s.
    """
    seen: set[str] = set()
    for name, _ in named:
        if name in seen:
            return name
        seen.add(name)
    return None


def _once(named: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raise ValueError for a name that comes twice, of which Python would drop the first."""
    twice = first_repeated(named)
    if twice is not None:
        raise ValueError(f"{json.dumps(twice[:80])} is in an object more than once")
    return dict(named)


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
        """Return the list that a form's text is; raise ValueError if it is not JSON, or has a name twice in an object."""
        try:
            return json.loads(text, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            # Where the fault is in what is meant to be JSON; of a plain word the parser says nothing useful.
            where = f" ({error})" if text.lstrip()[:1] in ("[", "{") else ""
            raise ValueError(f"a list of objects as JSON{where}") from error

    def _checked(self, value: _T) -> _T:
        return super()._checked(self.parsed(value) if isinstance(value, str) else value)

    def add_to(self, schema: dict[str, Any]) -> None:
        """Write the number of items."""
        schema["maxItems"] = self.most

    def __str__(self) -> str:
        return f"up to {self.most} {self.each}s"
