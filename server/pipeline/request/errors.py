"""The error for a field of a request."""

from __future__ import annotations

from converter.errors import AnemoneError
from server.errors import quoted


class RequestError(AnemoneError):
    """A request's field has a value that is not accepted."""

    def __init__(self, field: str, value: object, accepted: str) -> None:
        super().__init__(f"{field} is {quoted(value)}; accepted: {accepted}")
        self.field, self.value, self.accepted = field, value, accepted
