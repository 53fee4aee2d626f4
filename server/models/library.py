"""Models on disk: a converted one is used as it is, also Apple's; a checkpoint is converted at its first use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from converter import __version__
from converter.apple import AppleSettings, adopt, is_apple
from converter.conversion.convert import convert
from converter.conversion.partial import conversion_lock
from converter.conversion.plan import ConvertOptions, make_plan
from converter.errors import ManifestError
from converter.folder import FILE, ModelFolder
from converter.progress import OnProgress, ignore
from converter.sources.snapshot import file_name, short_name
from converter.sources.source import Source, open_source

#: The bundled checkpoint lies in a folder called just "model".
_BUNDLED_NAME = "anemone-demo"
_AS_USUAL = ConvertOptions()


def model_name(source: Path) -> str:
    """What the checkpoint at ``source`` is called."""
    if source.is_file():
        return file_name(source).rpartition("/")[2]
    resolved = source.resolve()
    if resolved.name == "model" and resolved.parent.name == "demo":
        return _BUNDLED_NAME
    return short_name(source).removesuffix(".safetensors")


def _whole(folder: Path) -> ModelFolder | None:
    """The converted model in ``folder``; None where there is none, or a damaged or outdated one."""
    if not (folder / FILE).is_file():
        return None
    try:
        found = ModelFolder.open(folder)
    except ManifestError:
        return None
    return found if found.manifest.converter.anemone == __version__ else None


def _installed(folder: Path, checkpoint: Source, options: ConvertOptions) -> ModelFolder | None:
    """The converted form of ``checkpoint``; None where it must be converted (again).

    Whatever it was converted with will do where ``options`` are the usual ones.
    """
    found = _whole(folder)
    if found is None:
        return None
    made = found.manifest
    if replace(options, name=None) != _AS_USUAL:
        return found if made.plan == make_plan(checkpoint, options).fingerprint else None
    # Hashing 4 GB takes seconds; files of the same sizes and times are taken for the same files.
    same = made.source.stamp == checkpoint.stamp or made.source.sha256 == checkpoint.sha256
    return found if same else None


def is_current(source: Path, out: Path) -> bool:
    """Whether ``out`` has the model of the checkpoint at ``source``, as far as its files' sizes and times tell.

    Nothing large is read. Raises CheckpointError where the source is none.
    """
    found = _whole(out)
    return found is not None and found.manifest.source.stamp == open_source(source).stamp


def from_hub(folder: Path, address: str) -> ModelFolder | None:
    """The model in ``folder`` where it was made from ``address`` on the hub, which is then not asked; otherwise None."""
    found, repository = _whole(folder), address.partition("@")[0].removesuffix(".safetensors")
    if found is None or found.manifest.source.kind != "hub":
        return None
    return found if found.manifest.source.path_or_id == repository else None


def installed_from(opened: Source, out: Path, options: ConvertOptions, progress: OnProgress) -> ModelFolder:
    """The checkpoint's model in ``out``, converted if it is not there yet; waits for another process that does so.

    Raises what `convert` raises.
    """
    found = _installed(out, opened, options)
    if found is not None:
        return found
    with conversion_lock(out):
        return _installed(out, opened, options) or convert(opened, out, options, progress)


def ready_model(
    source: Path,
    data_dir: Path,
    progress: OnProgress = ignore,
) -> ModelFolder:
    """The model at ``source``, or at that address on the hub, converted into ``data_dir`` if it is not yet.

    Raises CheckpointError or ManifestError saying what is wrong with the source, and what `convert` raises.
    """
    if (source / FILE).is_file():
        return ModelFolder.open(source)
    if source.is_dir() and is_apple(source):
        return adopt(source, AppleSettings())
    name = model_name(source)
    opened = open_source(source, progress=progress)
    return installed_from(opened, data_dir / "models" / name, ConvertOptions(name=name), progress)
