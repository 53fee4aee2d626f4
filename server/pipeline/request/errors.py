"""The values that clients send for a request's fields, and the error for one that is not accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from converter.errors import AnemoneError
from server.errors import quoted
from server.pipeline.fields import RequestField, asked_fields
from server.pipeline.limits import path_of, value_and_reason


class RequestError(AnemoneError):
    """A request's field has a value that is not accepted."""

    def __init__(self, field: str, value: object, accepted: str) -> None:
        super().__init__(f"{field} is {quoted(value)}; accepted: {accepted}")
        self.field, self.value, self.accepted = field, value, accepted


class _Sent(BaseModel):
    """Fields as a dialect hands them over."""

    model_config = ConfigDict(extra="forbid")


class SentFields:
    """A request's fields as clients send them; ``required`` says which must be sent."""

    def __init__(self, fields: Iterable[RequestField], required: Callable[[RequestField], bool]) -> None:
        self._schema: type[BaseModel] = create_model("_Sent", __base__=_Sent, **asked_fields(fields, _Sent, required))

    def validated(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values that are not None, converted to their types; raises RequestError for the first wrong one."""
        try:
            return self._schema.model_validate(values).model_dump(exclude_none=True)
        except ValidationError as error:
            first = error.errors()[0]
            raise RequestError(path_of(first), *value_and_reason(first)) from error
