"""Opens a model folder as a pipeline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from converter.devices.trials import Trials
from converter.folder import ModelFolder
from converter.progress import OnProgress, ignore
from converter.runtime import ComputeUnit, on_core_ml
from server.pipeline.networks import load_package
from server.pipeline.stable_diffusion import StableDiffusion
from server.pipeline.tasks.upscale import OpenUpscaler, no_upscaler
from server.settings import Safety

log = logging.getLogger("anemone.models")


def _ignore(note: str) -> None:
    """Do nothing."""


def open_pipeline(
    folder: ModelFolder,
    compute_units: Mapping[str, ComputeUnit],
    *,
    memory_budget: int | None = None,
    precision: str = "fast",
    safety: Safety = "blur",
    words: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    notes: Sequence[str] = (),
    beside: StableDiffusion | None = None,
    open_upscaler: OpenUpscaler = no_upscaler,
    trying: Callable[[str], None] = _ignore,
    progress: OnProgress = ignore,
) -> StableDiffusion:
    """Return the folder's pipeline, with no network loaded yet. Raises DamagedModel if a file differs from its checksum.

    ``memory_budget`` is the limit for the weights of loaded networks, in bytes. ``safety`` says what happens to images in
    which the model's safety checker finds something. ``words`` has the words that stand for embeddings in prompts, by the names
    of those that are merged into the model, ``notes`` what of it was not. ``open_upscaler`` loads upscalers for hires fix, ``beside`` is a pipeline
    to share memory with. ``trying`` is called with a note's file name before a program is tried on a compute unit that may
    kill this process (see `converter.devices.trials.noted`), and ``progress`` while files are compared.
    """
    if not folder.manifest.files:
        log.info("%s has no checksums, so damage shows only when a network is loaded", folder.path)
    folder.compare(progress)
    units = dict(compute_units)
    trials = Trials(folder, units, lambda note: trying(note.name)) if on_core_ml(precision) else None
    return StableDiffusion(
        folder,
        units,
        partial(load_package, precision=precision),
        memory_budget=memory_budget,
        trials=trials,
        safety=safety,
        words=words,
        notes=notes,
        beside=beside,
        open_upscaler=open_upscaler,
    )
