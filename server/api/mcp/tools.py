"""The tools that MCP clients call: each makes, shows or cancels the same jobs as the native API's calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi.concurrency import run_in_threadpool

from server.api.errors import require
from server.api.mcp.bodies import BODIES, JobQuestion, NoQuestion, StatusQuestion
from server.api.mcp.calls import Call
from server.api.mcp.progress import OnProgress, follow
from server.api.mcp.reply import Reply, job_reply
from server.api.mcp.schema import body_schema, model_schema
from server.api.native.capabilities import capabilities
from server.api.native.upscale import bound_upscale
from server.api.request_body import RequestBody
from server.api.service import Service
from server.api.submission import SubmitOptions
from server.events import OPEN
from server.jobs.ledger import Accepted
from server.jobs.queue import JobQueue
from server.models.installed import InstalledModels
from server.pipeline.fields import RequestField, without_attachments
from server.pipeline.request import TASKS, edit_task


@dataclass(frozen=True)
class Asker:
    """The caller of a tool, and the parts of the server that it uses.

    base_url: the server's address as the client wrote it, without a slash at its end.
    call: the call, which may be cancelled. on_progress: tells the client how far its job is; None if it does not ask.
    forget_images: drops the images that came with the call; to be called when they are stored.
    """

    service: Service
    queue: JobQueue
    models: InstalledModels
    client: str
    base_url: str
    call: Call
    on_progress: OnProgress | None
    forget_images: Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Tool:
    """A tool. ``about``: for the language model. ``changes``: whether it makes or cancels a job.

    fields: those of its arguments that are a request's.
    """

    title: str
    about: str
    arguments: type[RequestBody]
    schema: Mapping[str, Any]
    run: Callable[[Asker, dict[str, Any]], Awaitable[Reply]]
    changes: bool
    fields: tuple[RequestField, ...] = ()


async def _submitted(asker: Asker, tool: str, fields: Mapping[str, Any]) -> Accepted:
    """Submit a request; raise RequestError or ApiError if something in it is wrong."""
    values, attachments = without_attachments(BODIES[tool].fields, fields)
    del values["wait"]
    options = SubmitOptions(asker.client, values.pop("priority") or "normal", attachments)
    if tool == "upscale_image":
        request, cost = await bound_upscale(asker.service, values, attachments)
        return require(await asker.service.submit_job(request, cost, options))
    task = TASKS["txt2img"] if tool == "generate_image" else edit_task(values)
    bound = require(await asker.service.bind_request(task, values, attachments))
    return require(await asker.service.submit(bound, options))


async def _make(asker: Asker, fields: dict[str, Any], *, tool: str) -> Reply:
    asker.call.job_id = job_id = (await _submitted(asker, tool, fields)).job_id
    wait = fields["wait"] is not False  # null is as if left out
    fields.clear()  # the images are on disk
    await asker.forget_images()
    if asker.call.is_cancelled:  # while it was submitted
        await run_in_threadpool(asker.service.cancel, job_id)
    job = require(asker.service.job(job_id))
    if wait:
        async with follow(asker.queue, job, asker.on_progress):
            outcome = await asker.service.result(job_id)
        job = require(outcome)
    return await job_reply(asker.service, job, asker.base_url)


async def _models(asker: Asker, fields: dict[str, Any]) -> Reply:
    found = await run_in_threadpool(capabilities, asker.queue, asker.models, asker.service)
    value = found.model_dump(mode="json", include={"models", "loaded", "schedulers", "upscalers", "preprocessors"})
    value["default"] = None if found.model is None else found.model.name
    lines = []
    for model in found.models:
        sizes = ", ".join(f"{size.width}x{size.height}" for size in model.sizes)
        tasks = ", ".join(name for name, task in model.tasks.items() if task.available)
        word = " (the default)" if model.name == value["default"] else ""
        lines.append(f"{model.name}{word}: best at {sizes}; {model.defaults.steps} steps; can do {tasks}")
        lines += (
            f"  {title}: {', '.join(names)}"
            for title, names in (("LoRAs", model.loras), ("embeddings, which are words of prompts", model.embeddings))
            if names
        )
    lines = lines or [f"No model is installed yet; {asker.base_url}/readyz tells how far the first one is."]
    lines.append(f"Upscalers: {', '.join(upscaler.name for upscaler in found.upscalers)}")
    return Reply("\n".join(lines), value)


async def _status(asker: Asker, fields: dict[str, Any]) -> Reply:
    job = require(asker.service.job(fields["job_id"]))
    if fields["wait"] and job.status in OPEN:
        async with follow(asker.queue, job, asker.on_progress):
            await asker.service.result(job.id)
        job = require(asker.service.job(job.id))
    return await job_reply(asker.service, job, asker.base_url)


async def _cancel(asker: Asker, fields: dict[str, Any]) -> Reply:
    before = require(asker.service.job(fields["job_id"]))
    job = require(await run_in_threadpool(asker.service.cancel, before.id))
    reply = await job_reply(asker.service, job, asker.base_url)
    if before.status not in OPEN:
        return Reply(f"Job {job.id} had ended before: {job.status}.", reply.value)
    word = "is being cancelled" if job.status in OPEN else "is cancelled"
    return Reply(f"Job {job.id} {word}.", reply.value)


def _making(name: str, title: str, about: str) -> dict[str, Tool]:
    body, run = BODIES[name], partial(_make, tool=name)
    return {name: Tool(title, about, body.model, body_schema(body), run, changes=True, fields=body.fields)}


_ANSWER = (
    "Answers with the image, the job's id and the seed. What is left out takes the model's default; only set what the user "
    "asks for. It may take minutes: with wait false it answers at once, and job_status has the image later."
)
TOOLS: dict[str, Tool] = {
    **_making(
        "generate_image",
        "Generate an image",
        f"Make an image from a description, with Stable Diffusion on the server's machine. {_ANSWER}",
    ),
    **_making(
        "edit_image",
        "Edit an image",
        "Change an image by a description of what it shall show: all of it; with a mask only where the mask is white; with "
        f"extend_left, extend_right, extend_top or extend_bottom beyond its edges. {_ANSWER}",
    ),
    **_making(
        "upscale_image",
        "Enlarge an image",
        f"Make an image larger and sharper, without a description. {_ANSWER}",
    ),
    "list_models": Tool(
        "List models",
        "List the installed models with the sizes, tasks, LoRAs and embeddings of each, and the upscalers, schedulers and "
        "preprocessors whose names the other tools take.",
        NoQuestion,
        model_schema(NoQuestion),
        _models,
        changes=False,
    ),
    "job_status": Tool(
        "Show a job",
        "Tell how far a job is, and show its images once it has succeeded.",
        StatusQuestion,
        model_schema(StatusQuestion),
        _status,
        changes=False,
    ),
    "cancel_job": Tool(
        "Cancel a job",
        "Stop a job that is queued or running. A job that has ended stays as it is.",
        JobQuestion,
        model_schema(JobQuestion),
        _cancel,
        changes=True,
    ),
}
