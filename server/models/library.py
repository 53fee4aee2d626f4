"""Models on disk: a converted folder, also Apple's, is used as it is; a checkpoint is converted at its first use."""

from __future__ import annotations

from pathlib import Path

from converter.apple import AppleSettings, adopt, is_apple
from converter.conversion.convert import write_model
from converter.conversion.partial import conversion_lock
from converter.conversion.plan import REVISION, ConversionPlan, make_plan
from converter.errors import ManifestError
from converter.folder import FILE, ModelFolder
from converter.options import ConvertOptions
from converter.progress import OnProgress, ignore
from converter.sources.snapshot import file_name, short_name
from converter.sources.source import Source, open_source

#: The bundled checkpoint lies in a folder called just "model".
_BUNDLED_NAME = "anemone-demo"


def model_name(source: Path) -> str:
    """Return the name of the checkpoint at ``source``."""
    if source.is_file():
        return file_name(source).rpartition("/")[2]
    resolved = source.resolve()
    if resolved.name == "model" and resolved.parent.name == "demo":
        return _BUNDLED_NAME
    return short_name(source).removesuffix(".safetensors")


def _whole(folder: Path) -> ModelFolder | None:
    """Return the model in ``folder``; None where there is none, or a damaged one, or what packages hold has changed since."""
    if not (folder / FILE).is_file():
        return None
    try:
        model = ModelFolder.open(folder)
    except ManifestError:
        return None
    return model if model.manifest.converter.revision == REVISION else None


def _made_from(folder: Path, checkpoint: Source) -> ModelFolder | None:
    """Return the model of the checkpoint in ``folder``, with whatever options it was made; None where there is none."""
    model = _whole(folder)
    if model is None:
        return None
    source = model.manifest.source
    # Hashing 4 GB takes seconds; files of the same sizes and times are taken for the same files.
    return model if source.stamp == checkpoint.stamp or source.sha256 == checkpoint.sha256 else None


def _made_by(folder: Path, plan: ConversionPlan) -> ModelFolder | None:
    """Return the model of the plan in ``folder``; None where there is none."""
    model = _whole(folder)
    return model if model is not None and model.manifest.plan == plan.fingerprint else None


def is_current(source: Path, out: Path) -> bool:
    """Return whether ``out`` has the model of the checkpoint at ``source``, judged by its files' sizes and times.

    Nothing large is read. Raises CheckpointError if the source is not a checkpoint.
    """
    model = _whole(out)
    return model is not None and model.manifest.source.stamp == open_source(source).stamp


def from_hub(folder: Path, address: str) -> ModelFolder | None:
    """Return the model in ``folder`` if it was made from ``address`` on the hub; the hub is not asked."""
    model, repository = _whole(folder), address.partition("@")[0].removesuffix(".safetensors")
    if model is None or model.manifest.source.kind != "hub":
        return None
    return model if model.manifest.source.path_or_id == repository else None


def installed_from(opened: Source, out: Path, options: ConvertOptions, progress: OnProgress) -> ModelFolder:
    """Return the checkpoint's model in ``out``, converted if need be; waits for another process that converts it.

    Where the options are the usual ones, a model that was made with others will do, also of a checkpoint that cannot be
    converted without them. Raises what `convert` raises.
    """
    # The prediction type is in the source's stamp and hash, as in its plan's fingerprint.
    is_usual = not options.changed().keys() - {"name", "prediction_type"}
    if is_usual and (model := _made_from(out, opened)) is not None:
        return model
    plan = make_plan(opened, options, progress)
    if not is_usual and (model := _made_by(out, plan)) is not None:
        return model
    with conversion_lock(out):
        # Another process may have converted it since.
        model = _made_from(out, opened) if is_usual else _made_by(out, plan)
        return model or write_model(plan, out, progress)


def ready_model(
    source: Path,
    data_dir: Path,
    progress: OnProgress = ignore,
) -> ModelFolder:
    """Return the model at ``source``, or at that address on the hub, converted into ``data_dir`` if need be.

    Raises CheckpointError or ManifestError saying what is wrong with the source, and what `convert` raises.
    """
    if (source / FILE).is_file():
        return ModelFolder.open(source)
    if source.is_dir() and is_apple(source):
        return adopt(source, AppleSettings())
    name = model_name(source)
    opened = open_source(source, progress=progress)
    return installed_from(opened, data_dir / "models" / name, ConvertOptions(name=name), progress)
