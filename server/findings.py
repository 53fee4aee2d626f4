"""Says in plain words what pydantic's findings accept, for people who send JSON or write settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WHOLE, _NUMBER, _OBJECT = "a whole number", "a number", "an object with named values"
#: What a finding accepts, by pydantic's name for it; its context fills the braces.
_ACCEPTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": _OBJECT,
    "finite_number": "a finite number",
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_type": _WHOLE,
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "missing": "a value",
    "model_attributes_type": _OBJECT,
    "model_type": _OBJECT,
    "multiple_of": "a multiple of {multiple_of}",
    "string_too_long": "up to {max_length} characters",
    "string_too_short": "a length of at least {min_length}",
    "string_type": "text",
    "too_long": "a list of at most {max_length} values",
    "too_short": "a list of {min_length} values or more",
    "tuple_type": "a list",
}


def accepted_by(finding: Mapping[str, Any]) -> str:
    """Return what one of pydantic's findings accepts, such as "a whole number"; the message of a validator of ours as it is."""
    kind, context = finding["type"], finding.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "")
    if kind in _ACCEPTED:
        return _ACCEPTED[kind].format(**context)
    return str(finding["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
