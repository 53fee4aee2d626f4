"""Models with a job's LoRAs and embeddings merged in, for workers and commands on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from converter.folder import ModelFolder
from converter.loras import EmbeddingFile, LoraError, LoraFile
from converter.manifest import MERGE_REVISION
from converter.networks.registry import text_encoders
from converter.progress import OnProgress
from server.jobs.messages import ModelRef
from server.jobs.worker import AddonChanged, AddonMisfit
from server.models.addons import UnknownAddon
from server.models.loras import Addons
from server.models.merged import MergedModels
from server.pipeline.request import Embedding, Lora

_File = TypeVar("_File", LoraFile, EmbeddingFile)


def _key(model: ModelRef) -> str:
    """Return a hash of what is merged into a model."""
    content = [
        MERGE_REVISION,
        [[lora.sha256, lora.weight, lora.of_text] for lora in model.loras],
        [[each.name, each.sha256] for each in model.embeddings],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _opened(
    kind: str, asked: Lora | Embedding, path: Callable[[str], Path], open_file: Callable[[Path], _File]
) -> tuple[_File, os.stat_result]:
    """Return the file that the job was accepted with, and its state before it was read; raises AddonChanged if that is not there."""
    try:
        written = path(asked.name).stat()
        file = open_file(path(asked.name))
    except (UnknownAddon, FileNotFoundError) as gone:
        raise AddonChanged(f"the {kind} {asked.name} was deleted after the job was sent") from gone
    except LoraError as error:
        raise AddonChanged(f"the {kind} {asked.name} was replaced after the job was sent: {error}") from error
    if file.sha256 != asked.sha256:
        raise AddonChanged(f"the {kind} {asked.name} was replaced after the job was sent; send the job again")
    return file, written


def _is_rewritten(path: Path, before: os.stat_result) -> bool:
    """Return whether the same file has other content, as after ``cp`` onto it. One in its place leaves it as it was."""
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    return now.st_ino == before.st_ino and (now.st_mtime_ns, now.st_size) != (before.st_mtime_ns, before.st_size)


def _parts(lora: Lora, file: LoraFile) -> Iterator[tuple[LoraFile, float]]:
    """Yield a LoRA with its weight; one with two weights as two, for the text encoders and for the rest."""
    if lora.of_text == lora.weight:
        yield file, lora.weight
        return
    for of_text, weight in ((True, lora.of_text), (False, lora.weight)):
        layers, biases = (
            {network: of for network, of in each.items() if bool(text_encoders([network])) == of_text}
            for each in (file.layers, file.biases)
        )
        yield replace(file, layers=layers, biases=biases), weight


def merging_notes(folder: ModelFolder, base: ModelFolder) -> tuple[str, ...]:
    """Return what of LoRAs changes nothing in a model, in sentences."""
    return folder.manifest.left_out[len(base.manifest.left_out) :]


class Variants:
    """Opens models as jobs need them: as they are installed, or with LoRAs and embeddings merged in."""

    def __init__(self, addons: Addons, merged: MergedModels) -> None:
        self._addons, self._merged = addons, merged

    @contextmanager
    def open(self, model: ModelRef, base: ModelFolder, progress: OnProgress) -> Iterator[ModelFolder]:
        """Yield the model, whose folder stays while the context is open. Raises AddonChanged, AddonMisfit, and what merging raises."""
        if not model.is_merged:
            yield base
            return

        def make(out: Path, progress: OnProgress) -> ModelFolder:
            # Not at the top: it imports coremltools.
            from converter.merging import MergeError, merge

            opened = [_opened("lora", lora, self._addons.loras.path, LoraFile.open) for lora in model.loras]
            embeddings = [
                _opened("embedding", each, self._addons.embeddings.path, EmbeddingFile.open)[0]
                for each in model.embeddings
            ]
            parts = [part for lora, (file, _) in zip(model.loras, opened, strict=True) for part in _parts(lora, file)]
            try:
                merged = merge(base, parts, embeddings, out, progress)
            except MergeError as error:
                raise AddonMisfit(str(error)) from error
            for lora, (file, written) in zip(model.loras, opened, strict=True):
                if _is_rewritten(file.path, written):
                    shutil.rmtree(out)
                    raise AddonChanged(f"the lora {lora.name} was replaced while it was merged; send the job again")
            return merged

        with self._merged.open(model.content, _key(model), make, progress) as folder:
            yield folder
