"""Conversion and generation without a server, for ``anemone convert`` and ``anemone generate``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.conversion.convert import convert
from converter.conversion.partial import conversion_lock
from converter.errors import AnemoneError
from converter.options import ConvertOptions
from converter.progress import OnProgress, Progress
from converter.sources.source import open_source
from server.models.library import ready_model
from server.models.memory import memory_budget
from server.pipeline.denoiser import Step
from server.pipeline.images import encode_png
from server.pipeline.infotext import write_infotext
from server.pipeline.loading import open_pipeline
from server.pipeline.request import bind
from server.settings import Settings
from server.terminal import Bar, printable


def _megabytes(done: int, total: int) -> str:
    return f"{done / 2**20:.0f} of {total / 2**20:.0f} MB"


def _showing(bar: Bar) -> OnProgress:
    """Return a progress listener that shows bytes of weights on the bar."""

    def show(p: Progress) -> None:
        left = "" if p.eta_s is None else f", {p.eta_s:.0f} s left"
        bar.show(f"{p.stage} {p.item}", p.done, p.total, f"{_megabytes(p.done, p.total)}{left}")

    return show


def convert_checkpoint(source: str, out: Path, options: ConvertOptions, only: list[str]) -> int:
    """Convert ``source`` into ``out`` and show a bar; if ``only`` names networks, convert only these."""
    bar, began = Bar(), time.monotonic()
    agreement: dict[str, float] = {}

    try:
        checkpoint = open_source(source, prediction_type=options.prediction_type, progress=_showing(bar))
        with conversion_lock(out):
            folder = convert(checkpoint, out, options, _showing(bar), only, verified=agreement.__setitem__)
    finally:
        bar.close()
    for network, psnr_db in agreement.items():
        print(f"{network}: {psnr_db:.0f} dB of the source's")
    for line in folder.manifest.left_out:
        print(printable(f"left out: {line}"))
    shown = ", ".join(f"{w}x{h}" for w, h in folder.manifest.sizes)
    print(f"{out}: {folder.manifest.name} ({folder.manifest.family}), {shown}, in {time.monotonic() - began:.1f} s")
    return 0


def _targets(out: Path, count: int) -> list[Path]:
    if count == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(count)]


def _read(files: Mapping[str, Path]) -> dict[str, bytes]:
    for file in files.values():
        if not file.is_file():
            raise AnemoneError(f"the image {file} does not exist")
    return {name: file.read_bytes() for name, file in files.items()}


def generate(settings: Settings, fields: Mapping[str, Any], files: Mapping[str, Path], out: Path) -> int:
    """Make the images of a request with these fields and write them; ``files`` are its attachments by name."""
    if not out.absolute().parent.is_dir():
        raise AnemoneError(f"the folder {out.absolute().parent} does not exist; {out.name} cannot be written into it")
    attachments = _read(files)
    bar = Bar()

    def show(p: Progress) -> None:
        bar.show(f"{p.stage} {p.item}", p.done, p.total)

    try:
        model = open_pipeline(
            ready_model(settings.model, settings.data_dir, show),
            settings.compute_units,
            memory_budget=memory_budget(settings.memory_budget_gb),
            precision=settings.precision,
            progress=show,
        )
        model.load(show)
        request = bind(model.manifest, **{**fields, **{name: name for name in attachments}})
        targets = _targets(out, request.seeds.n)
        began, written = time.monotonic(), []
        for event in model.generate(request, attachments):
            if isinstance(event, Step):
                bar.show(f"image {event.image + 1} of {request.seeds.n}", event.index, event.total)
                continue
            target = targets[event.index]
            partial = target.with_name(f".{target.name}.partial")
            partial.write_bytes(encode_png(event.pixels, write_infotext(request, model.manifest, event.seeds)))
            partial.rename(target)
            written.append(f"{target} (seed {event.seeds.seed})")
    finally:
        bar.close()
    print(f"{', '.join(written)} in {time.monotonic() - began:.1f} s")
    return 0
