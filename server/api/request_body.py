"""The bases of schemas that clients send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from server.jobs.job import PRIORITIES, Priority
from server.pipeline.request import takers


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
                fields = ", ".join(cls.model_fields) or "none"
                if takers := cls.takers(name):
                    fields = f"by {', '.join(takers)}; here: {fields}"
                accepted = PydanticCustomError("extra_forbidden", "{fields}", {"fields": fields})
                unknown = InitErrorDetails(type=accepted, loc=(name,), input=values[name])
                raise ValidationError.from_exception_data(cls.__name__, [unknown])
        return values


class Submission(RequestBody):
    """The fields of a submission that are not part of the request."""

    priority: Priority | None = Field(
        None,
        description=f"{', '.join(PRIORITIES)}: a job runs before all jobs of lower priority; clients take turns within a priority. "
        "Only programs on the server's own machine may use high",
    )

    @classmethod
    def takers(cls, name: str) -> tuple[str, ...]:
        """Return the tasks that take a field of this name."""
        return takers(name)
