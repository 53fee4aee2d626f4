"""Select the files of a repository that a conversion reads, from their names and the small JSON files among them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from converter.errors import CheckpointError, shown
from converter.sources.checkpoint import DEFAULTS, PICKLES, choose_weights, pickle_refused, shard_indexes
from converter.sources.component_kinds import COMPONENTS, ComponentKind
from converter.sources.tokenizer import tokenizer_names

MODEL_INDEX = "model_index.json"
_SCHEDULER = "scheduler/scheduler_config.json"
_SHOWN = 5


def _inside(folder: str, names: Collection[str]) -> list[str]:
    paths = (name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/"))
    return [path for path in paths if "/" not in path]


def _single_files(names: Collection[str]) -> list[str]:
    # Files at the top are the likeliest to be whole checkpoints.
    return sorted((name for name in names if name.endswith(".safetensors")), key=lambda name: (name.count("/"), name))


def not_diffusers(where: str, names: Collection[str]) -> CheckpointError:
    """Return the error for a repository without model_index.json."""
    if files := _single_files(names):
        return CheckpointError(
            f"{where} is not a diffusers checkpoint (it has no {MODEL_INDEX}), but has {shown(files, _SHOWN)}; give a file as "
            f"{where}/{files[0]}"
        )
    if pickles := sorted(name for name in names if name.endswith(PICKLES)):
        return pickle_refused(f"{where} has no safetensors, only {shown(pickles, _SHOWN)}")
    return CheckpointError(f"{where} has no checkpoint: neither {MODEL_INDEX} nor a .safetensors file")


def checkpoint_file(where: str, file: str, names: Collection[str]) -> str:
    """Return ``file`` if the repository has it; raises CheckpointError naming the files it has."""
    if file not in names:
        others = _single_files(names)
        raise CheckpointError(f"{where} has no {file}" + (f"; it has {shown(others, _SHOWN)}" if others else ""))
    return file


def checkpoint_components(where: str, index: dict[str, Any], names: Collection[str]) -> list[ComponentKind]:
    """Return the components of the checkpoint whose model_index.json is ``index``.

    Raises CheckpointError if a component is missing or of an unsupported class, before weights are downloaded.
    """
    components = []
    for component in COMPONENTS:
        entry = index.get(component.name)
        kind = entry[-1] if isinstance(entry, list) and entry else None
        if kind not in (None, *component.classes):
            raise CheckpointError(
                f"{where} has a {kind} for its {component.name}; accepted: {' and '.join(component.classes)}"
            )
        if kind is not None or (component.name not in index and f"{component.name}/config.json" in names):
            components.append(component)
    if {component.role for component in components} != {component.role for component in COMPONENTS}:
        raise CheckpointError(
            f"{where} is a {index.get('_class_name', 'model')} with {' and '.join(c.name for c in components) or 'none'} of the "
            f"networks of Stable Diffusion ({', '.join(c.name for c in COMPONENTS)})"
        )
    return components


def settings_files(where: str, components: Collection[ComponentKind], names: Collection[str]) -> list[str]:
    """Return the small files: configurations, lists of shards, tokenizers. Raises CheckpointError if one is missing."""
    wanted = [MODEL_INDEX, _SCHEDULER, *(f"{component.name}/config.json" for component in components)]
    for component in components:
        wanted += [f"{component.name}/{name}" for name in shard_indexes(_inside(component.name, names))]
        if component.tokenizer is not None:
            files = tokenizer_names(f"{where}/{component.tokenizer}", _inside(component.tokenizer, names))
            wanted += [f"{component.tokenizer}/{name}" for name in files]
    if missing := [name for name in wanted if name not in names]:
        raise CheckpointError(f"{where} lacks {', '.join(missing)}")
    return [*wanted, DEFAULTS] if DEFAULTS in names else wanted


def weights_of(
    where: str,
    components: Collection[ComponentKind],
    names: Collection[str],
    read_json: Callable[[str], dict[str, Any]],
) -> list[str]:
    """Return one set of safetensors files for each component, fp16 if there is one; ``read_json`` reads a list of shards.

    Raises CheckpointError if a component has none, or only pickles.
    """
    return [
        f"{network}/{name}"
        for network in (component.name for component in components)
        for name in choose_weights(
            f"{where}/{network}",
            _inside(network, names),
            lambda index, network=network: read_json(f"{network}/{index}"),  # type: ignore[misc]
        )
    ]


def network_folder(where: str, within: str | None, names: Collection[str]) -> str:
    """Return the folder of a single network in a repository: its top (""), else the folder ``within`` of a checkpoint.

    Raises CheckpointError if neither has a network.
    """
    for folder in ("", within):
        if folder is not None and f"{folder}/config.json".removeprefix("/") in names:
            return folder
    inside = "" if within is None else f" or {within}/config.json"
    raise CheckpointError(f"{where} has no network: it has no config.json{inside}")


def network_files(
    where: str, folder: str, names: Collection[str], read_json: Callable[[str], dict[str, Any]]
) -> tuple[list[str], list[str]]:
    """Return a network's small files and one set of its weights, fp16 if there is one; see `choose_weights`."""

    def in_folder(name: str) -> str:
        return f"{folder}/{name}".removeprefix("/")

    inside = _inside(folder, names) if folder else [name for name in names if "/" not in name]
    small = [in_folder("config.json"), *(in_folder(name) for name in shard_indexes(inside))]
    weights = choose_weights(f"{where}/{folder}".removesuffix("/"), inside, lambda index: read_json(in_folder(index)))
    return small, [in_folder(name) for name in weights]
