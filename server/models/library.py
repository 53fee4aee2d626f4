"""Models on disk: a model folder, also Apple's, is used as it is; a checkpoint is converted at its first use."""

from __future__ import annotations

import logging
from pathlib import Path

from converter.apple import AppleSettings, adopt, is_apple
from converter.conversion.convert import write_model
from converter.conversion.partial import conversion_lock
from converter.conversion.plan import REVISION, ConversionPlan
from converter.conversion.planning import make_plan
from converter.errors import DamagedModel, ManifestError
from converter.folder import ModelFolder
from converter.manifest import FILE
from converter.options import ConvertOptions
from converter.progress import OnProgress, ignore
from converter.sources.snapshot import file_name, short_name
from converter.sources.source import Source, open_source

log = logging.getLogger("anemone.models")

#: The bundled checkpoint's folder is only called "model".
_BUNDLED_NAME = "anemone-demo"


def model_name(source: Path) -> str:
    """Return the name of the checkpoint at ``source``."""
    if source.is_file():
        return file_name(source).rpartition("/")[2]
    resolved = source.resolve()
    if resolved.name == "model" and resolved.parent.name == "demo":
        return _BUNDLED_NAME
    return short_name(source).removesuffix(".safetensors")


def _present_model(folder: Path) -> ModelFolder | None:
    """Return the model in ``folder``; None if it has none, a damaged one, or one of an earlier revision of the converter."""
    if not (folder / FILE).is_file():
        return None
    try:
        model = ModelFolder.open(folder)
    except ManifestError:
        return None
    return model if model.manifest.converter.revision == REVISION else None


def _whole_model(folder: Path) -> ModelFolder | None:
    """Return the model of `_present_model`; None if the content of one of its files has changed since it was written."""
    model = _present_model(folder)
    try:
        if model is not None:
            model.compare()
    except DamagedModel:
        return None
    return model


def _damage(folder: Path) -> str | None:
    """Return what is wrong with the model in ``folder``; None if nothing is, or if it has none."""
    try:
        if (folder / FILE).exists():
            ModelFolder.open(folder).compare()
    except DamagedModel as damage:
        return f"{folder} is damaged: {damage.wrong}"
    except ManifestError as error:
        return str(error)
    return None


def _made_from(folder: Path, checkpoint: Source) -> ModelFolder | None:
    """Return the model of the checkpoint in ``folder``, made with any options; None if it has none."""
    model = _whole_model(folder)
    if model is None:
        return None
    source = model.manifest.source
    # Hashing 4 GB takes seconds; files with the same sizes and times count as the same files.
    return model if source.stamp == checkpoint.stamp or source.sha256 == checkpoint.sha256 else None


def _made_by(folder: Path, plan: ConversionPlan) -> ModelFolder | None:
    """Return the model of the plan in ``folder``; None if it has none."""
    model = _whole_model(folder)
    return model if model is not None and model.manifest.plan == plan.fingerprint else None


def is_current(source: Path, out: Path) -> bool:
    """Return whether ``out`` has the model of the checkpoint at ``source``; compares files' sizes and times.

    It reads no large file. Raises CheckpointError if the source is not a checkpoint.
    """
    model = _present_model(out)
    return model is not None and model.manifest.source.stamp == open_source(source).stamp


def from_hub(folder: Path, address: str, *, whole: bool = False) -> ModelFolder | None:
    """Return the model in ``folder`` if it was made from ``address`` on the hub; makes no request to the hub.

    With ``whole``, the contents of its files are compared too.
    """
    model, repository = (
        (_whole_model if whole else _present_model)(folder),
        address.partition("@")[0].removesuffix(".safetensors"),
    )
    if model is None or model.manifest.source.kind != "hub":
        return None
    return model if model.manifest.source.path_or_id == repository else None


def installed_from(checkpoint: Source, out: Path, options: ConvertOptions, progress: OnProgress) -> ModelFolder:
    """Return the checkpoint's model in ``out``, converted if need be; waits for another process that converts it.

    With the default options, a model of the checkpoint that was made with other options is accepted; a checkpoint may
    need options to be converted at all. Raises what `convert` raises.
    """
    # The prediction type is part of the stamp and the hash of the source, and of the fingerprint of the plan.
    is_usual = not options.changed().keys() - {"name", "prediction_type"}
    if is_usual and (model := _made_from(out, checkpoint)) is not None:
        return model
    plan = make_plan(checkpoint, options, progress)
    if not is_usual and (model := _made_by(out, plan)) is not None:
        return model
    with conversion_lock(out):
        # Another process may have converted it meanwhile.
        model = _made_from(out, checkpoint) if is_usual else _made_by(out, plan)
        if model is None and (damage := _damage(out)) is not None:
            log.warning("%s; it is converted again", damage)
        return model or write_model(plan, out, progress)


def ready_model(
    source: Path,
    data_dir: Path,
    progress: OnProgress = ignore,
) -> ModelFolder:
    """Return the model at ``source``, a path or an address on the hub, converted into ``data_dir`` if need be.

    Raises CheckpointError or ManifestError, which say what is wrong with the source, and what `convert` raises.
    """
    if (source / FILE).is_file():
        return ModelFolder.open(source)
    if source.is_dir() and is_apple(source):
        return adopt(source, AppleSettings())
    name = model_name(source)
    checkpoint = open_source(source, progress=progress)
    return installed_from(checkpoint, data_dir / "models" / name, ConvertOptions(name=name), progress)
