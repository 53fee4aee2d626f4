"""The base of every schema that clients send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError


class RequestBody(BaseModel):
    """Fields that a client sends, as JSON or as a form. The first unknown field refuses them.

    pydantic reports every unknown field: 10 MB of them took 46 s and 1.4 GB. Lists need FIRST_ONLY for the same reason.
    """

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def takers(cls, name: str) -> tuple[str, ...]:
        """Return the other calls that take a field of this name, which the body does not have."""
        return ()

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            name = next((name for name in values if name not in cls.model_fields), None)
            if name is not None:
                fields = ", ".join(cls.model_fields)
                if takers := cls.takers(name):
                    fields = f"by {', '.join(takers)}; here: {fields}"
                accepted = PydanticCustomError("extra_forbidden", "{fields}", {"fields": fields})
                unknown = InitErrorDetails(type=accepted, loc=(name,), input=values[name])
                raise ValidationError.from_exception_data(cls.__name__, [unknown])
        return values
