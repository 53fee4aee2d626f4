"""Generation for every dialect: bind a model, submit a request, wait for its job. Independent of HTTP.

The service returns a `Refusal` for what it cannot do; each dialect answers it in its own form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi.concurrency import run_in_threadpool

from converter.manifest import Manifest
from server.api.refusal import Reason, Refusal, bad_image, during, kept_text, later
from server.api.submission import BoundModel, BoundRequest, SubmitOptions
from server.events import OPEN
from server.faults import FAULTS, fault_of
from server.jobs.job import PRIORITIES, Job, JobImage, Submission
from server.jobs.ledger import Accepted, KeyReused, NoPlace
from server.jobs.messages import ADDON_CHANGED, ADDON_MISFIT, DISK_FULL, UNSAFE
from server.jobs.queue import JobQueue
from server.jobs.store import JobStore
from server.models.installed import InstalledModels, UnknownModel
from server.models.loras import Addons
from server.models.upscalers import InstalledUpscalers, Upscaler
from server.pipeline.boxes.box import Shape
from server.pipeline.canvas.attachments import frame_notes, kept, mask_from_alpha
from server.pipeline.cost import Cost, cost
from server.pipeline.decoding.file import ImageError, ImageFile
from server.pipeline.denoising.refining import check_refiner
from server.pipeline.encoding.encode import encode_as, is_whole_png
from server.pipeline.encoding.formats import PNG, OutputFormat
from server.pipeline.images import LARGE, fit_image, plain_png, read_image
from server.pipeline.palette.extraction import Palette, palette_of_file
from server.pipeline.request import GenerationRequest, JobRequest, KnownAddons, RequestError, Task, bind
from server.pipeline.request.controls import MapQuestion, check_preprocessing
from server.pipeline.request.edits import EXTENSIONS
from server.pipeline.request.upscale import check_upscaler
from server.pipeline.upscaling.names import LATENT, usable
from server.security.rate import LOOPBACK

_T = TypeVar("_T")
#: The attachments that are the source image and its mask.
IMAGE, MASK = "image", "mask"
#: Codes of failed jobs that a client can do something about.
_REASONS: dict[str | None, Reason] = {
    UNSAFE: "unsafe_image",
    ADDON_CHANGED: "addon_changed",
    ADDON_MISFIT: "addon_misfit",
    DISK_FULL: "disk_full",
}
#: Seconds after which a client should retry while the first model is not ready.
_NOT_READY_SECONDS = 5


@dataclass(frozen=True)
class Told(Generic[_T]):
    """The result of an upload that makes no job, and notes on parts of the upload that were not used."""

    value: _T
    notes: tuple[str, ...]


#: A job that succeeded, or the reason why it has no images.
Outcome: TypeAlias = Job | Refusal


class Service:
    """Binds models, submits requests and waits for jobs, on behalf of a dialect's routes."""

    def __init__(
        self,
        queue: JobQueue,
        store: JobStore,
        models: InstalledModels,
        upscalers: InstalledUpscalers,
        addons: Addons,
    ) -> None:
        self._queue, self._store, self._models, self._upscalers = queue, store, models, upscalers
        #: The LoRAs and embeddings.
        self.addons = addons
        # Decoding takes 128 to 260 MB for a large image, up to 50 MB for a small one. A small one never waits for a large one.
        self._one_large, self._two_small = CapacityLimiter(1), CapacityLimiter(2)
        # Encoding WebP takes 20 bytes a pixel, and 14 ms at 512x512.
        self._two_encoded = CapacityLimiter(2)

    async def bind(self, name: str | None) -> BoundModel | Refusal:
        """Return the installed model called ``name``, or the default one for None."""
        readiness = self._queue.readiness
        if readiness.state == "failed":
            return Refusal("model_failed", "model_failed", f"the model cannot be loaded: {readiness.message}")
        # Scanning the models folder would hold up the event loop: 0.8 ms with ten models, against 13 us for its stamps.
        model = self._models.cached(name)
        if model is None:
            return await run_in_threadpool(self._look_up, name)
        return BoundModel(model.name, model.manifest)

    def _look_up(self, name: str | None) -> BoundModel | Refusal:
        try:
            model = self._models.get(name if name is not None else self._models.default or "")
            return BoundModel(model.name, model.manifest)
        except UnknownModel:
            if (cause := self._queue.readiness.cause) is not None:
                return during(cause)
            # Raises FileNotFoundError if the data folder is away with all models: they are not gone, and are not made again.
            self._models.root.parent.stat()
            if name is not None and name != self._models.default:
                error = RequestError("model", name, ", ".join(self._models.names()) or "none yet")
                return Refusal(
                    "unknown_model",
                    "invalid_field",
                    str(error),
                    field="model",
                    value=name,
                    accepted=error.accepted,
                )
        readiness = self._queue.readiness
        if readiness.state == "ready":
            return self._without_folder(self._models.default or "")
        progress, percent = readiness.progress, ""
        if progress is not None and progress.total:
            percent = f", {100 * progress.done // progress.total} % done"
        message = f"the model is not ready: {readiness.state}{percent}; see /readyz"
        return Refusal("not_ready", "not_ready", message, retry_after=_NOT_READY_SECONDS)

    def _without_folder(self, default: str) -> Refusal:
        gone = f"the folder of the model {default} is gone"
        if self._queue.restore(default):
            message = f"{gone}; it is being converted again; see /readyz"
            return Refusal("not_ready", "not_ready", message, retry_after=_NOT_READY_SECONDS)
        installed = ", ".join(self._models.names()) or "none"
        return Refusal(
            "model_failed", "model_gone", f"{gone}; put it back, or name another model; installed: {installed}"
        )

    async def bind_request(
        self, task: Task, fields: Mapping[str, Any], attachments: Mapping[str, bytes]
    ) -> BoundRequest | Refusal:
        """Bind a task's request to the model that its fields name, or to the default one.

        ``fields`` has the names of attachments in place of their content (see `without_attachments`). Refuses files that are
        not images; raises RequestError for the first field that the model does not accept.
        """
        model = await self.bind(fields.get("model"))
        if isinstance(model, Refusal):
            return model
        size = await self.image_size(attachments)
        if isinstance(size, Refusal):
            return size
        values = {**fields, "model": model.name}
        values |= {name: value for name, value in task.defaults.items() if values.get(name) is None}

        def bound() -> GenerationRequest:
            # In a thread: it may read the files of LoRAs.
            return bind(model.manifest, image_size=size, task=task.name, addons=self.known_addons(), **values)

        request = await run_in_threadpool(bound)
        if task.name == "outpaint" and request.outpaint is None:
            raise RequestError(EXTENSIONS[0], 0, f"pixels to add; at least one of {', '.join(EXTENSIONS)} is above 0")
        return BoundRequest(model, request)

    def known_addons(self) -> KnownAddons:
        """Return the LoRAs and embeddings that requests may name; reads the embeddings' files."""
        return KnownAddons(self.addons.loras.snapshot(), self.addons.embeddings.all()[0])

    async def submit(self, bound: BoundRequest, options: SubmitOptions) -> Accepted | Refusal:
        """Store a request as a job; see `submit_job`.

        Raises RequestError for a refiner that does not fit and an unknown upscaler.
        """
        model, request = bound.model, bound.request
        if request.hires is not None:
            known = (LATENT, *await run_in_threadpool(self.upscalers))
            check_upscaler("hires_upscaler", request.hires.hires_upscaler, known)
        if request.refiner is not None:
            check_refiner(request, model.manifest, await run_in_threadpool(self._manifests))
        return await self.submit_job(request, cost(request, model.manifest), options)

    def _manifests(self) -> dict[str, Manifest]:
        return {model.name: model.manifest for model in self._models.all()}

    def upscalers(self) -> dict[str, Upscaler]:
        """Return the upscalers by name, the default one first; reads their manifests."""
        return usable(self._upscalers.all(), Upscaler())

    async def submit_job(self, request: JobRequest, cost: Cost, options: SubmitOptions) -> Accepted | Refusal:
        """Store a request as a job, or find the job that it repeats; the job is on disk on return.

        Refuses attachments that are not decodable images, and ``high`` priority from other machines: a job of theirs with
        it would go before those of everybody else.
        """
        if options.priority == "high" and options.client != LOOPBACK:
            accepted = ", ".join(priority for priority in PRIORITIES if priority != "high")
            message = (
                f"priority is 'high', which only programs on the server's own machine may use; accepted: {accepted}"
            )
            return Refusal(
                "not_allowed", "priority_not_allowed", message, field="priority", value="high", accepted=accepted
            )
        attachments: dict[str, bytes] = {}
        notes: list[str] = []
        image_size: Shape | None = None
        # The source image first: a mask is scaled to its size.
        for name, data in sorted(options.attachments.items(), key=lambda attachment: attachment[0] != IMAGE):
            try:
                file = await run_in_threadpool(read_image, data)
                if name == IMAGE:
                    image_size = file.upright
                limiter = self._limiter(file)
                part = await to_thread.run_sync(kept, request, name, file, data, image_size, limiter=limiter)
            except ImageError as bad:
                return bad_image(name, bad)
            attachments[name] = part.data
            notes += part.notes
        request = request.model_copy(update={"notes": (*request.notes, *notes)})
        if isinstance(request, GenerationRequest) and request.palette is not None:
            colors = await run_in_threadpool(palette_of_file, attachments[request.palette.palette_image])
            palette = request.palette.model_copy(update={"palette_colors": colors})
            request = request.model_copy(update={"palette": palette})
        submission = Submission(
            request,
            cost,
            attachments=attachments,
            client=options.client,
            priority=options.priority,
            key=options.key,
            fingerprint=options.fingerprint,
            retried=options.is_retry,
        )
        try:
            return await run_in_threadpool(self._queue.submit, submission)
        except NoPlace as full:
            return Refusal("queue_full", full.code, str(full), retry_after=full.retry_after)
        except KeyReused as reused:
            return Refusal("key_reused", "key_reused", str(reused), field="Idempotency-Key", value=options.key)

    async def image_size(self, attachments: Mapping[str, bytes]) -> Shape | Refusal | None:
        """Return the upright source image's width and height; None without one. Refuses files that are not images."""
        data = attachments.get(IMAGE)
        if data is None:
            return None
        try:
            return (await run_in_threadpool(read_image, data)).upright
        except ImageError as bad:
            return bad_image(IMAGE, bad)

    def _limiter(self, file: ImageFile) -> CapacityLimiter:
        """Return the limiter under which an upload waits for its turn to be decoded."""
        # The codes of a lossless WebP take up to 0.5 GB, whatever its size, and its header does not say so.
        return self._one_large if file.pixels > LARGE or file.format == "WEBP" else self._two_small

    async def _made_of(self, name: str, data: bytes, make: Callable[[ImageFile], _T]) -> Told[_T] | Refusal:
        """Return what ``make`` makes of an upload of this name, in its turn. Refuses files that are not images."""
        try:
            file = await run_in_threadpool(read_image, data)
            return Told(await to_thread.run_sync(make, file, limiter=self._limiter(file)), frame_notes(name, file))
        except ImageError as bad:
            return bad_image(name, bad)

    async def mask_from_alpha(self, data: bytes) -> Told[bytes] | Refusal:
        """Return the mask, as a PNG, that repaints where an image is transparent. Refuses one that is so nowhere."""
        return await self._made_of(MASK, data, lambda file: mask_from_alpha(data))

    async def palette(self, data: bytes, count: int) -> Told[Palette] | Refusal:
        """Return the colors of an uploaded image, at most ``count``."""
        return await self._made_of(IMAGE, data, lambda file: palette_of_file(data, count))

    async def control_map(self, data: bytes, question: MapQuestion) -> Told[bytes] | Refusal:
        """Return the control map of an image as a PNG.

        Refuses files that are not images; raises RequestError for wrong thresholds.
        """
        check_preprocessing(question)
        return await self._made_of(IMAGE, data, lambda file: _control_map(data, question, *file.upright))

    async def result(self, job_id: str) -> Outcome:
        """Wait for the job's end and return its outcome.

        Refuse if the job cannot run before the server stops, or while the disk or the database cannot be used for long.
        """
        try:
            job = self._present(await self._queue.wait(job_id), job_id)
        except FAULTS as error:
            fault = fault_of(error)
            if fault is None:
                raise
            return later(job_id, fault)
        if isinstance(job, Refusal):
            return job
        if job.failure is not None:
            reason = _REASONS.get(job.failure.code, "failed")
            return Refusal(reason, job.failure.code, job.failure.message)
        if job.status == "cancelled":
            return Refusal("cancelled", "cancelled", f"job {job_id} was cancelled before it finished")
        if job.status in OPEN:
            readiness = self._queue.readiness
            if readiness.cause is not None:
                return later(job_id, readiness.cause)
            why = readiness.message or "the server is stopping"
            return Refusal("not_now", "not_now", f"{why}; {kept_text(job_id)}")
        return job

    def job(self, job_id: str) -> Job | Refusal:
        """Return the job with its current position and progress."""
        return self._present(self._queue.job(job_id), job_id)

    def cancel(self, job_id: str) -> Job | Refusal:
        """Cancel a queued job immediately, a running one after its present call of a network; a finished job is unchanged."""
        return self._present(self._queue.cancel(job_id), job_id)

    def delete(self, job_id: str) -> Job | Refusal:
        """Delete a job that has ended, with its images."""
        job = self._present(self._queue.delete(job_id), job_id)
        if not isinstance(job, Refusal) and job.status in OPEN:
            message = f"job {job_id} is {job.status}; only a job that has ended can be deleted: cancel it first"
            return Refusal("job_open", "job_open", message)
        return job

    @staticmethod
    def stored_image(job: Job, index: int) -> JobImage | Refusal:
        """Return a job's image, counted from 0."""
        image = next((i for i in job.images if i.index == index), None)
        if image is not None:
            return image
        message = f"job {job.id} ({job.status}) has {len(job.images)} images, counted from 0; it has no image {index}"
        return Refusal("no_such_image", "no_such_image", message)

    async def image(
        self, job: Job, image: JobImage, to: OutputFormat = PNG, quality: int | None = None
    ) -> bytes | Refusal:
        """Read a job's image, and encode it in another format than PNG if that is asked for (see `encode_as`)."""
        try:
            png = await run_in_threadpool(self._whole_image, self._store.image_path(image))
            damage = "is damaged"
        except (FileNotFoundError, IsADirectoryError):
            png, damage = None, "is missing from the data folder"
        if png is not None and to == PNG:
            return png
        if png is not None:
            return await to_thread.run_sync(encode_as, png, to, quality, limiter=self._two_encoded)
        return self._without_file(job, image, damage)

    async def with_files(self, job: Job) -> Job | Refusal:
        """Return the job if the files of all its images are there: an answer that has begun cannot say otherwise."""
        paths = [self._store.image_path(image) for image in job.images]
        there = await run_in_threadpool(lambda: [path.is_file() for path in paths])
        gone = (image for image, is_there in zip(job.images, there, strict=True) if not is_there)
        lost = next(gone, None)
        return job if lost is None else self._without_file(job, lost, "is missing from the data folder")

    def _without_file(self, job: Job, image: JobImage, damage: str) -> Refusal:
        current = self.job(job.id)  # it may have expired since it was read
        message = f"the file of image {image.index} of job {job.id} {damage}; submit the request with its seed again"
        return current if isinstance(current, Refusal) else Refusal("no_such_image", "no_such_image", message)

    @staticmethod
    def _whole_image(path: Path) -> bytes | None:
        png = path.read_bytes()
        return png if is_whole_png(png) else None

    def _present(self, job: Job | None, job_id: str) -> Job | Refusal:
        if job is not None:
            return job
        if self._store.is_expired(job_id):
            message = (
                f"job {job_id} has expired: it was deleted with its images, by a client, by age or by their total size"
            )
            return Refusal("expired", "expired", message)
        return Refusal("no_such_job", "no_such_job", f"the job {job_id[:40]!r} does not exist")


def _control_map(data: bytes, question: MapQuestion, width: int, height: int) -> bytes:
    return plain_png(question.map_of(fit_image(data, *question.size(width, height))))
