"""The arguments of the tools: the fields of the requests that they make, and whether to wait for the image."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from server.api.body import Body
from server.api.request_body import RequestBody, Submission
from server.pipeline.limits import Characters
from server.pipeline.request import TASKS, UPSCALE_FIELDS, Task

_WAIT = "Whether to wait for the image; false answers at once with the job's id, for job_status"


class Making(Submission):
    """The arguments of a tool that makes images which are not part of the request."""

    wait: bool | None = Field(True, description=_WAIT)

    @classmethod
    def takers(cls, name: str) -> tuple[str, ...]:
        """Return the tools that take an argument of this name."""
        return tuple(tool for tool, body in BODIES.items() if name in body.model.model_fields)


class JobQuestion(RequestBody):
    """The arguments of a tool that asks for a job."""

    job_id: Annotated[str, Characters(100)] = Field(description="The job's id, as the tool that made it told")


class StatusQuestion(JobQuestion):
    """The arguments of the tool that tells a job's state."""

    wait: bool | None = Field(False, description="Whether to answer only when the job has ended")


class NoQuestion(RequestBody):
    """No arguments."""


def _of_task(name: str, task: Task) -> Body:
    return Body(name, "", task.fields, lambda field: field.name in task.needs, Making)


#: The arguments of the tools that make images. Editing takes the fields of all tasks that start from an image.
BODIES: dict[str, Body] = {
    "generate_image": _of_task("GenerateImage", TASKS["txt2img"]),
    "edit_image": _of_task("EditImage", TASKS["outpaint"]),
    "upscale_image": Body("UpscaleImage", "", UPSCALE_FIELDS, lambda field: field.is_attachment, Making),
}
