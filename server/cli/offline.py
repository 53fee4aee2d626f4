"""Conversion and generation without a server, for ``anemone convert`` and ``anemone generate``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from mimetypes import guess_type
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from converter.apple.swift import require_readable, require_unet
from converter.conversion.agreement import check_options
from converter.conversion.convert import write_model
from converter.conversion.partial import conversion_lock, require_replaceable
from converter.conversion.planning import make_plan
from converter.conversion.upscaler import write_upscaler
from converter.errors import AnemoneError, CheckpointError
from converter.folder import ModelFolder
from converter.manifest import Manifest
from converter.networks.registry import UNET
from converter.options import ConvertOptions
from converter.progress import Progress
from converter.sources.source import open_source, open_upscaler
from converter.sources.upscaler import UpscalerFile
from server.cli.folders import going_on_later, require_writable, showing
from server.cli.resources import lay_out
from server.jobs.local_worker import upscaler_opener
from server.jobs.messages import ModelRef
from server.jobs.variants import Variants, merging_notes
from server.models.installed import InstalledModels, content_hash
from server.models.library import ready_model
from server.models.loras import Addons
from server.models.memory import memory_budget
from server.models.merged import MERGED, MergedModels
from server.models.upscalers import InstalledUpscalers, Upscaler
from server.pipeline.canvas.attachments import frame_notes, kept
from server.pipeline.decoding.file import ImageError
from server.pipeline.denoising.denoiser import Note, Step
from server.pipeline.denoising.refining import check_refiner
from server.pipeline.encoding.encode import encode_as
from server.pipeline.encoding.formats import FORMATS, PNG, format_of_suffix
from server.pipeline.finished import finished_png, upscaled_png
from server.pipeline.images import decode_image, read_image
from server.pipeline.loading import open_pipeline
from server.pipeline.networks import Call
from server.pipeline.request import GenerationRequest, KnownAddons, bind, bind_upscale
from server.pipeline.request.output import require_lossy
from server.pipeline.request.upscale import check_upscaler
from server.pipeline.tasks.upscale import TileStep
from server.pipeline.tasks.upscale import upscale as run_upscale
from server.pipeline.upscaling.names import LATENT, usable
from server.settings import Settings
from server.terminal import Bar, printable


def convert_checkpoint(
    source: str, out: Path, options: ConvertOptions, only: list[str], *, resources: bool = False
) -> int:
    """Convert ``source`` into ``out`` and show a bar; if ``only`` names networks, convert only these.

    With ``resources``, lay it out for Apple's Swift package too.
    """
    bar, began = Bar(), time.monotonic()
    agreement: dict[str, float] = {}
    if resources:
        require_readable(options)

    if (upscaler := open_upscaler(source, showing(bar))) is not None:
        bar.close()
        if resources:
            raise CheckpointError("Apple's Swift package has no upscaler; leave out --resources")
        return _convert_upscaler(upscaler, out, options, only)
    # Before a download.
    check_options(options)
    require_replaceable(out)
    require_writable(out)
    try:
        with going_on_later():
            checkpoint = open_source(source, prediction_type=options.prediction_type, progress=showing(bar))
            with conversion_lock(out):
                plan = make_plan(checkpoint, options, showing(bar))
                if resources:
                    conditions = plan.family.conditions(checkpoint.index)
                    channels = plan.config(UNET.name)["in_channels"]
                    require_unet(conditions, channels, plan.batches, control=plan.controlled)
                folder = write_model(plan, out, showing(bar), only, verified=agreement.__setitem__)
    finally:
        bar.close()
    for network, psnr_db in agreement.items():
        print(f"{network}: {psnr_db:.0f} dB of the source's, at least {plan.least_db(network):.0f} are accepted")
    for line in folder.manifest.left_out:
        print(printable(f"left out: {line}"))
    shown = ", ".join(f"{w}x{h}" for w, h in folder.manifest.sizes)
    print(f"{out}: {folder.manifest.name} ({folder.manifest.family}), {shown}, in {time.monotonic() - began:.1f} s")
    if resources:
        lay_out(folder, None, None, None)
    return 0


def _convert_upscaler(source: UpscalerFile, out: Path, options: ConvertOptions, only: list[str]) -> int:
    if only:
        raise CheckpointError(f"an upscaler is one network; leave out --only {only[0]}")
    began = time.monotonic()
    agreement: list[float] = []
    require_writable(out)
    with conversion_lock(out):
        folder = write_upscaler(source, out, options, verified=agreement.append)
    for psnr_db in agreement:
        print(f"upscaler: {psnr_db:.0f} dB of the source's")
    about = folder.manifest
    print(
        printable(
            f"{out}: {about.name} (upscaler, {about.architecture}), {about.scale}x, tiles of {about.tile}x{about.tile}, "
            f"in {time.monotonic() - began:.1f} s"
        )
    )
    return 0


def _targets(out: Path, count: int) -> list[Path]:
    """Return the files of so many images. Raises AnemoneError if one of them cannot be written."""
    # A rename would replace a link itself.
    out = out.resolve() if out.is_symlink() else out
    targets = [out] if count == 1 else [out.with_name(f"{out.stem}-{i}{out.suffix}") for i in range(count)]
    for target in targets:
        if target.exists() and not target.is_file():
            raise AnemoneError(f"{target} is not a file; accepted: the image to write, such as {target / 'out.png'}")
        try:
            with TemporaryFile(dir=target.parent):  # without a name, so that a signal leaves nothing
                _partial(target).exists()  # raises for a name that is too long
        except OSError as error:
            raise AnemoneError(
                f"{target} cannot be written: {error.strerror}; accepted: a file in a folder that exists and can be written"
            ) from error
    return targets


def _format_of(out: Path, asked: str | None) -> str:
    """Return the name of the format to write: what is asked for, or what the file's suffix says; PNG if it says nothing.

    Raises AnemoneError if the suffix names another format, or one that is not written.
    """
    of_suffix = format_of_suffix(out.suffix)
    if of_suffix is None and guess_type(out.name)[0] is not None:
        suffixes = ", ".join(suffix for each in FORMATS.values() for suffix in each.suffixes)
        raise AnemoneError(f"{out} is not the name of an image that is written; accepted: {suffixes}")
    if asked is not None and of_suffix not in (None, FORMATS[asked]):
        suffix = FORMATS[asked].suffixes[0]
        raise AnemoneError(
            f"{out} is not the name of a {asked}; accepted: such as {out.with_suffix(suffix)}, or no --format"
        )
    return asked or (PNG if of_suffix is None else of_suffix).name


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _write(target: Path, png: bytes) -> None:
    """Write a file that is there as a whole or not at all."""
    partial = _partial(target)
    try:
        partial.write_bytes(png)
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


def _read(files: Mapping[str, Path]) -> dict[str, bytes]:
    """Return the bytes of the images. Raises AnemoneError if one of them is missing or is not an image."""
    contents = {}
    for name, file in files.items():
        try:
            contents[name] = file.read_bytes()
            decode_image(contents[name])
        except OSError as error:
            raise AnemoneError(f"the image {file} cannot be read: {error.strerror or error}") from error
        except ImageError as error:
            raise AnemoneError(f"{file}: {error}") from error
    return contents


def _bound(
    manifest: Manifest,
    fields: Mapping[str, Any],
    attachments: Mapping[str, bytes],
    upscalers: InstalledUpscalers,
    addons: Addons,
) -> tuple[GenerationRequest, dict[str, bytes]]:
    """Return the request with these fields, and what its images need of the attachments."""
    files = {name: read_image(data) for name, data in attachments.items()}
    image_size = files["image"].upright if "image" in files else None
    known = KnownAddons(addons.loras.snapshot(), addons.embeddings.all()[0])
    request = bind(manifest, image_size=image_size, addons=known, **fields)
    if request.hires is not None:
        check_upscaler("hires_upscaler", request.hires.hires_upscaler, (LATENT, *usable(upscalers.all(), Upscaler())))
    parts = {}
    for name, file in files.items():
        try:
            parts[name] = kept(request, name, file, attachments[name], image_size)
        except ImageError as error:
            raise AnemoneError(f"{name}: {error}") from error
    notes = request.notes + tuple(note for part in parts.values() for note in part.notes)
    return request.model_copy(update={"notes": notes}), {name: part.data for name, part in parts.items()}


def _refiner(request: GenerationRequest, folder: ModelFolder, settings: Settings) -> ModelFolder | None:
    """Return the folder of the request's refiner, an installed model. Raises RequestError if there is none that fits."""
    if request.refiner is None:
        return None
    models = InstalledModels(settings.data_dir)
    check_refiner(request, folder.manifest, {name: models.manifest(name) for name in models.names()})
    return ModelFolder.open(models.folder(request.refiner.refiner))


def upscale(settings: Settings, image: Path, fields: Mapping[str, Any], out: Path) -> int:
    """Enlarge an image file and write it in the format that the suffix of ``out`` says."""
    to = FORMATS[_format_of(out, None)]
    (target,) = _targets(out, 1)
    attachments, bar = _read({"image": image}), Bar()
    upscalers = InstalledUpscalers(settings.data_dir)
    known = usable({name: each.tile for name, each in upscalers.all().items()}, 0)
    source = read_image(attachments["image"])
    request = bind_upscale(known, source.upright, image="image", format=to.name, **fields)
    require_lossy(request.output.quality, to)
    opener = upscaler_opener(upscalers, settings.compute_units, settings.precision)
    began = time.monotonic()
    try:
        for event in run_upscale(request, attachments, opener):
            if isinstance(event, TileStep):
                bar.show("tile", event.index, event.total)
            else:
                png = upscaled_png(event, request, mark=settings.mark_images)
                _write(target, encode_as(png, to, request.output.quality))
    finally:
        bar.close()
    for note in frame_notes("image", source):
        print(f"note: {note}")
    print(f"{target} ({request.size}, {request.upscaler}) in {time.monotonic() - began:.1f} s")
    return 0


def generate(settings: Settings, fields: Mapping[str, Any], files: Mapping[str, Path], out: Path) -> int:
    """Make the images of a request with these fields and write them; ``files`` are its attachments by name.

    What is wrong with the files is found first, and what is wrong with the fields before the model is loaded.
    """
    fields = {**fields, "format": _format_of(out, fields.get("format"))}
    _targets(out, 1)
    attachments = _read(files)
    bar, variant = Bar(), ExitStack()

    def show(p: Progress) -> None:
        bar.show(f"{p.stage} {p.item}", p.done, p.total)

    try:
        folder = ready_model(settings.model, settings.data_dir, show)
        upscalers = InstalledUpscalers(settings.data_dir)
        addons = Addons(settings.data_dir, settings.loras_dir, settings.embeddings_dir)
        request, attachments = _bound(folder.manifest, fields, attachments, upscalers, addons)
        targets = _targets(out, request.seeds.n)
        opened = partial(
            open_pipeline,
            compute_units=settings.compute_units,
            memory_budget=memory_budget(settings.memory_budget_gb),
            precision=settings.precision,
            safety=settings.safety,
            open_upscaler=upscaler_opener(upscalers, settings.compute_units, settings.precision),
            progress=show,
        )
        refining = _refiner(request, folder, settings)
        merged = MergedModels(settings.data_dir / MERGED, int(settings.merged_limit_gb * 10**9))
        ref = ModelRef(folder.manifest.name, content_hash(folder.manifest)).merged_for(request)
        with_addons = variant.enter_context(Variants(addons, merged).open(ref, folder, show))
        model = opened(with_addons, words=ref.words, notes=merging_notes(with_addons, folder))
        model.load(show)
        refiner = None if refining is None else opened(refining, beside=model)
        began, written, notes = time.monotonic(), [], []
        for event in model.generate(request, attachments, refiner):
            if isinstance(event, Step):
                bar.show(f"image {event.image + 1} of {request.seeds.n}", event.index, event.total)
                continue
            if isinstance(event, Call):
                continue
            if isinstance(event, Note):
                notes.append(event.text)
                continue
            png = finished_png(event, request, model.manifest, mark=settings.mark_images)
            _write(targets[event.index], encode_as(png, FORMATS[fields["format"]], request.output.quality))
            flagged = ", blurred: the safety checker found something in it" if event.flagged else ""
            written.append(f"{targets[event.index]} (seed {event.seeds.seed}{flagged})")
    finally:
        bar.close()
        variant.close()
    for note in notes:
        print(f"note: {note}")
    print(f"{', '.join(written)} in {time.monotonic() - began:.1f} s")
    return 0
