"""Models on disk: a converted one is used as it is, also Apple's; a checkpoint is converted at its first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from converter import __version__
from converter.apple import AppleSettings, adopt, is_apple
from converter.convert import ConvertProgress, convert
from converter.errors import CheckpointError, ManifestError
from converter.folder import FILE, ModelFolder
from converter.partial import conversion_lock
from converter.plan import ConvertOptions
from converter.source import Source, open_source

#: The bundled checkpoint lies in a folder called just "model".
_BUNDLED_NAME = "anemone-demo"


def model_name(source: Path) -> str:
    """What the checkpoint at ``source`` is called."""
    resolved = source.resolve()
    if resolved.name == "model" and resolved.parent.name == "demo":
        return _BUNDLED_NAME
    return resolved.name.removesuffix(".safetensors")


def _installed(folder: Path, checkpoint: Source) -> ModelFolder | None:
    """The converted form of ``checkpoint``; None where it must be converted (again): not there, damaged, or outdated."""
    if not (folder / FILE).is_file():
        return None
    try:
        found = ModelFolder.open(folder)
    except ManifestError:
        return None
    made = found.manifest
    # Hashing 4 GB takes seconds; files of the same sizes and times are taken for the same files.
    same = made.source.stamp == checkpoint.stamp or made.source.sha256 == checkpoint.sha256
    return found if same and made.converter.anemone == __version__ else None


def ready_model(source: Path, data_dir: Path, progress: Callable[[ConvertProgress], None]) -> ModelFolder:
    """The model at ``source``, converted into ``data_dir`` if it is not yet; waits for another process that does so.

    Raises CheckpointError or ManifestError saying what is wrong with the source.
    """
    if not source.exists():
        raise CheckpointError(
            f"there is no model at {source}; accepted: a converted model folder, a diffusers checkpoint folder, or a "
            ".safetensors file with a whole checkpoint"
        )
    if (source / FILE).is_file():
        return ModelFolder.open(source)
    if is_apple(source):
        return adopt(source, AppleSettings())
    name, checkpoint = model_name(source), open_source(source)
    out = data_dir / "models" / name
    found = _installed(out, checkpoint)
    if found is not None:
        return found
    with conversion_lock(out):
        return _installed(out, checkpoint) or convert(checkpoint, out, ConvertOptions(name=name), progress)
