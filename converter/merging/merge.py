"""Merge LoRAs and textual inversions into an installed model: a folder of its own that shares what they leave alone."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from converter.checksums import FileSum, note_right
from converter.conversion.partial import Partial, conversion_lock, require_replaceable
from converter.conversion.preflight import require_space
from converter.errors import ManifestError
from converter.folder import ModelFolder
from converter.loras import EmbeddingFile, LoraFile
from converter.manifest import MERGE_REVISION, Defaults, Manifest, Merged, MergedEmbedding, MergedLora
from converter.merging.changes import Change, check_families, check_names, components_of, lora_changes, unused_layers
from converter.merging.errors import MergeError
from converter.merging.network import Packages, packages_of, write_packages
from converter.merging.tokens import TABLE, numbered, token_rows
from converter.mil.package import link
from converter.networks.registry import component_name, text_encoders
from converter.progress import OnProgress, Progress, ignore


def merge_key(base_content: str, loras: Sequence[tuple[LoraFile, float]], embeddings: Sequence[EmbeddingFile]) -> str:
    """Return a hash of a merged model's content; ``base_content`` is a hash of the base's.

    LoRAs and embeddings count by their files' content and in their order: LoRAs also by which networks' layers they have
    here, which may be fewer than in the file, embeddings by their names.
    """
    content = [
        MERGE_REVISION,
        base_content,
        [[lora.sha256, sorted(components_of([lora])), float(weight)] for lora, weight in loras],
        [[embedding.name, embedding.sha256] for embedding in embeddings],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def merge(
    base: ModelFolder,
    loras: Sequence[tuple[LoraFile, float]],
    embeddings: Sequence[EmbeddingFile],
    out: Path,
    progress: OnProgress = ignore,
) -> ModelFolder:
    """Write the model ``base`` with LoRAs, each with its weight, and embeddings merged in into the folder ``out``.

    Files of the base that stay as they are become hard links. The folder appears complete or not at all, and replaces a
    model that was there; it is not written again if it has the same content. Waits while another process writes it.
    ``progress`` is called with bytes; what it raises ends the merge, and nothing is left. Raises MergeError and LoraError
    if something does not fit, SpaceError, and DamagedModel if a file of the base is not what was written.
    """
    require_replaceable(out)
    _require_apart(base.path, out)
    with conversion_lock(out):
        return _merge(base, loras, embeddings, out, progress)


def _require_apart(base: Path, out: Path) -> None:
    """Raise MergeError if ``out`` is the base's folder, lies in it or has it inside: the base would be lost or spoiled."""
    base, out = base.resolve(), out.resolve()
    # Paths may differ in case and be the same folder.
    pairs = [(base, each) for each in (out, *out.parents)] + [(out, each) for each in base.parents]
    if any(one.exists() and other.exists() and one.samefile(other) for one, other in pairs):
        raise MergeError(
            f"{out} is the base, lies in it or has it inside, and the base stays as it is; give a new folder"
        )


def _merge(
    base: ModelFolder,
    loras: Sequence[tuple[LoraFile, float]],
    embeddings: Sequence[EmbeddingFile],
    out: Path,
    progress: OnProgress,
) -> ModelFolder:
    manifest = base.manifest
    if not manifest.files:
        raise MergeError(
            f"{base.path} was made by an earlier version; convert the checkpoint again with `anemone convert`"
        )
    if manifest.no_base is not None:
        raise MergeError(f"{base.path} {manifest.no_base}")
    check_families(manifest.family, [*(lora for lora, _ in loras), *embeddings])
    check_names(embeddings)
    key = merge_key(manifest.plan, loras, embeddings)
    if (present := _present(out, key)) is not None:
        return present
    job = _plan(base, loras, embeddings)
    require_space(out.parent, job.bytes)
    base.compare(lambda step: progress(replace(step, stage="merging")))
    partial = Partial.open(out, key)
    # What a killed merge left is not looked through: a merge takes seconds.
    shutil.rmtree(partial.path, ignore_errors=True)
    try:
        sums = _write(base, job, partial, progress)
        _manifest(manifest, job, key, loras, sums).write(partial.path)
        partial.become(out)
    except BaseException:
        shutil.rmtree(partial.path, ignore_errors=True)
        raise
    note_right(out, sums)
    return ModelFolder.open(out)


def _present(out: Path, key: str) -> ModelFolder | None:
    """Return the model in ``out``; None if it has none, a damaged one, or one of another merge."""
    try:
        model = ModelFolder.open(out)
    except ManifestError:
        return None
    return model if model.manifest.plan == key else None


@dataclass(frozen=True)
class _Job:
    """A checked merge: changes by component, packages by network, and what the manifest says of it."""

    changes: dict[str, dict[str, Change]]
    packages: dict[str, list[Packages]]
    embeddings: tuple[MergedEmbedding, ...]
    sentences: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """The bytes of all changed weights in fp16."""
        return sum(
            2 * int(np.prod(shape)) for each in self.packages.values() for p in each for shape in p.changed.values()
        )


def _plan(base: ModelFolder, loras: Sequence[tuple[LoraFile, float]], embeddings: Sequence[EmbeddingFile]) -> _Job:
    """Find what changes in which package. Raises MergeError if something does not fit."""
    active = [(lora, weight) for lora, weight in loras if weight != 0]
    components = components_of(lora for lora, _ in active)
    encoders = text_encoders(base.manifest.networks) if embeddings else {}
    rows = {encoder: token_rows(encoder, embeddings) for encoder in encoders}
    changes = {component: lora_changes(component, active) for component in sorted({*components, *encoders})}
    for encoder, each in rows.items():
        changes[encoder][TABLE] = each
    packages: dict[str, list[Packages]] = {}
    present: dict[str, set[str]] = {component: set() for component in changes}
    for network in base.manifest.networks:
        if component := changes.get(component_name(network)):
            packages[network] = packages_of(base, network, component)
            present[component_name(network)].update(*(p.weights for p in packages[network]))
    sentences = [
        sentence
        for component in changes
        for sentence in unused_layers([lora for lora, _ in active], component, present[component])
    ]
    vocabularies = {
        encoder: shape[0] - each.count
        for encoder, each in rows.items()
        for package in packages[encoder]
        if (shape := package.changed.get(TABLE))
    }
    return _Job(changes, packages, numbered(embeddings, vocabularies), tuple(sentences))


def _write(base: ModelFolder, job: _Job, partial: Partial, progress: OnProgress) -> dict[str, FileSum]:
    """Write all packages and tokenizers into the partial folder; return the checksums of its files."""
    done, total = 0, job.bytes
    for network, packages in base.manifest.networks.items():

        def written(size: int, network: str = network) -> None:
            nonlocal done
            done += size
            progress(Progress("merging", network, done, total))

        if not any(each.changed for each in job.packages.get(network, ())):
            partial.take_over(network, base)
            continue
        known: dict[str, FileSum] = {}
        with partial.writing(network) as folder:
            for each in job.packages[network]:
                known |= write_packages(base, each, job.changes[component_name(network)], folder, written)
        partial.finish(network, packages, known)
    done_parts = {entry.name for entry in partial.path.iterdir()}
    for name in (name for name in base.manifest.files if name.partition("/")[0] not in done_parts):
        (partial.path / name).parent.mkdir(parents=True, exist_ok=True)
        link(base.path / name, partial.path / name)
    return partial.files({name.partition("/")[0] for name in base.manifest.files})


def _manifest(
    base: Manifest, job: _Job, key: str, loras: Sequence[tuple[LoraFile, float]], sums: Mapping[str, FileSum]
) -> Manifest:
    """Return the manifest; the defaults are a few-step LoRA's, if one is among them."""
    few_steps = [lora.few_step for lora, weight in loras if lora.few_step is not None and weight != 0]
    defaults = base.defaults
    for few in few_steps:
        defaults = Defaults(few.steps, few.guidance_scale, few.scheduler)
    return replace(
        base,
        plan=key,
        defaults=defaults,
        files=dict(sums),
        left_out=(*base.left_out, *job.sentences),
        merged=Merged(
            base.plan,
            tuple(MergedLora(lora.name, lora.sha256, weight) for lora, weight in loras),
            job.embeddings,
        ),
    )
