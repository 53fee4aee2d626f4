"""Starts a worker process on this machine. The HTTP process imports this module; only the worker imports the pipeline."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import AnemoneError
from converter.folder import ModelFolder
from converter.progress import OnProgress
from converter.runtime import ComputeUnit
from converter.upscaler_folder import UpscalerFolder
from server.jobs.messages import ModelRef
from server.models.installed import InstalledModels
from server.models.loras import Addons
from server.models.merged import MERGED, MERGED_LIMIT, MergedModels
from server.models.paths import told
from server.models.upscalers import InstalledUpscalers
from server.settings import Safety

if TYPE_CHECKING:
    from server.pipeline.stable_diffusion import StableDiffusion
    from server.pipeline.upscaling.network import UpscalingNetwork

log = logging.getLogger("anemone.worker")


@dataclass(frozen=True)
class WorkerSettings:
    """A worker's settings.

    data_dir: the data folder, which has the installed models.
    compute_units: network -> Core ML compute unit; other networks use the model's (see `converter.devices.units`).
    extra: model folders that are not in ``data_dir``.
    memory_budget: bytes that the loaded networks' weights may take; None for no limit.
    previews: whether the worker makes previews.
    mark_images: whether images say that a model made them.
    safety: what happens to images in which a model's safety checker finds something.
    loras_dir, embeddings_dir: the folders of LoRAs and embeddings; None: those in ``data_dir``.
    merged_limit: bytes that merged models may take on the disk.
    precision: how the networks compute (see `converter.runtime.load`).
    """

    data_dir: Path
    compute_units: dict[str, ComputeUnit]
    extra: tuple[Path, ...] = ()
    memory_budget: int | None = None
    previews: bool = True
    mark_images: bool = True
    safety: Safety = "blur"
    precision: str = "fast"
    loras_dir: Path | None = None
    embeddings_dir: Path | None = None
    merged_limit: int = MERGED_LIMIT


def upscaler_opener(
    upscalers: InstalledUpscalers, compute_units: dict[str, ComputeUnit], precision: str
) -> Callable[[str], UpscalingNetwork]:
    """Return a function that returns an installed upscaler by name, loaded; it keeps the last one."""
    from server.pipeline.upscaling.network import UpscalingNetwork

    @lru_cache(maxsize=1)
    def loaded(folder: UpscalerFolder) -> UpscalingNetwork:
        return UpscalingNetwork.open(folder, compute_units, precision)

    return lambda name: loaded(upscalers.get(name))


def start_worker(pipe: Connection, settings: WorkerSettings) -> None:
    """Run a worker process; its entry point."""
    from server.jobs.variants import Variants, merging_notes
    from server.jobs.worker import work
    from server.pipeline.loading import open_pipeline

    models = InstalledModels(settings.data_dir, settings.extra)

    def require_content(model: ModelRef) -> None:
        if models.content_hash(model.name) != model.content:
            raise AnemoneError("its folder was replaced meanwhile; send the job again")

    upscalers = InstalledUpscalers(settings.data_dir)
    open_upscaler = upscaler_opener(upscalers, settings.compute_units, settings.precision)
    addons = Addons(settings.data_dir, settings.loras_dir, settings.embeddings_dir)
    variants = Variants(addons, MergedModels(settings.data_dir / MERGED, settings.merged_limit))
    opened = ExitStack()  # the loaded model's merged folder, which stays until another model is loaded

    def open_model(
        model: ModelRef, progress: OnProgress, trying: Callable[[str], None], beside: StableDiffusion | None
    ) -> StableDiffusion:
        require_content(model)
        base = ModelFolder.open(models.folder(model.name))
        if beside is None:
            opened.close()
            folder = opened.enter_context(variants.open(model, base, progress))
        else:
            folder = base
        pipeline = open_pipeline(
            folder,
            settings.compute_units,
            memory_budget=settings.memory_budget,
            precision=settings.precision,
            safety=settings.safety,
            words=model.words,
            notes=merging_notes(folder, base),
            beside=beside,
            open_upscaler=open_upscaler,
            trying=lambda note: trying(os.path.relpath(folder.path / note, base.path)),
            progress=progress,
        )
        if beside is None:
            pipeline.load(progress)
        require_content(model)  # another process may have replaced the folder while its packages were loaded
        return pipeline

    parents = (
        models.root,
        upscalers.root,
        addons.loras.root,
        addons.embeddings.root,
        settings.data_dir,
        *(folder.parent for folder in settings.extra),
    )
    work(
        pipe,
        open_model,
        open_upscaler,
        previews=settings.previews,
        mark_images=settings.mark_images,
        without_paths=partial(told, parents=parents, log=log),
    )
