"""Models on disk: a converted one is used as it is, a checkpoint is converted at its first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from converter import __version__
from converter.checkpoint import Checkpoint
from converter.convert import ConvertOptions, ConvertProgress, convert
from converter.errors import CheckpointError, ManifestError
from converter.folder import FILE, Manifest, ModelFolder

#: The bundled checkpoint lies in a folder called just "model".
_BUNDLED_NAME = "anemone-demo"


def model_name(source: Path) -> str:
    """What the model at ``source`` is called."""
    if (source / FILE).is_file():
        return Manifest.read(source).name
    resolved = source.resolve()
    return _BUNDLED_NAME if resolved.name == "model" and resolved.parent.name == "demo" else resolved.name


def installed(source: Path, data_dir: Path) -> ModelFolder | None:
    """The converted form of ``source``; None where it must be converted (again): not there, damaged, or outdated."""
    if (source / FILE).is_file():
        return ModelFolder.open(source)
    folder = data_dir / "models" / model_name(source)
    if not (folder / FILE).is_file():
        return None
    try:
        found = ModelFolder.open(folder)
    except ManifestError:
        return None
    made = found.manifest
    current = made.converter.anemone == __version__ and made.source.sha256 == Checkpoint.open(source).sha256
    return found if current else None


def ready_model(source: Path, data_dir: Path, progress: Callable[[ConvertProgress], None]) -> ModelFolder:
    """The model at ``source``, converted into ``data_dir`` if it is not yet.

    Raises CheckpointError or ManifestError saying what is wrong with the source.
    """
    if not source.exists():
        raise CheckpointError(f"there is no model at {source}; give a diffusers checkpoint folder or a converted model")
    found = installed(source, data_dir)
    if found is not None:
        return found
    name = model_name(source)
    return convert(source, data_dir / "models" / name, ConvertOptions(name=name), progress)
