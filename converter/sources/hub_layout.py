"""Which of a repository's files a conversion reads: found from their names and the small JSON files among them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from converter.errors import CheckpointError, shown
from converter.sources.checkpoint import COMPONENTS, DEFAULTS, PICKLES, choose_weights, pickle_refused, shard_indexes
from converter.sources.tokenizer import tokenizer_names

MODEL_INDEX = "model_index.json"
_SCHEDULER = "scheduler/scheduler_config.json"
_TEXT = ("CLIPTextModel", "CLIPTextModelWithProjection")
#: What model_index.json calls the networks we convert; others are refused before gigabytes are downloaded.
_CLASSES = {
    "text_encoder": _TEXT,
    "text_encoder_2": _TEXT,
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
}
_SHOWN = 5


def _inside(folder: str, names: Collection[str]) -> list[str]:
    found = (name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/"))
    return [name for name in found if "/" not in name]


def _single_files(names: Collection[str]) -> list[str]:
    # Those at the top are the likeliest to be whole checkpoints.
    return sorted((name for name in names if name.endswith(".safetensors")), key=lambda name: (name.count("/"), name))


def not_diffusers(where: str, names: Collection[str]) -> CheckpointError:
    """What to say of a repository without model_index.json."""
    if files := _single_files(names):
        return CheckpointError(
            f"{where} is no diffusers checkpoint (it has no {MODEL_INDEX}), but has {shown(files, _SHOWN)}; give the file as "
            f"{where}/{files[0]}"
        )
    if pickles := sorted(name for name in names if name.endswith(PICKLES)):
        return pickle_refused(f"{where} has no safetensors, only {shown(pickles, _SHOWN)}")
    return CheckpointError(f"{where} holds no checkpoint: it has neither {MODEL_INDEX} nor a .safetensors file")


def checkpoint_file(where: str, file: str, names: Collection[str]) -> str:
    """``file``, where the repository has it; raises CheckpointError naming those it has."""
    if file not in names:
        others = _single_files(names)
        raise CheckpointError(f"{where} has no {file}" + (f"; it has {shown(others, _SHOWN)}" if others else ""))
    return file


def checkpoint_networks(where: str, index: dict[str, Any], names: Collection[str]) -> list[str]:
    """The networks of the checkpoint whose model_index.json is ``index``; raises CheckpointError where it is another's."""
    found = []
    for network, classes in _CLASSES.items():
        listed = index.get(network)
        kind = listed[-1] if isinstance(listed, list) and listed else None
        if kind not in (None, *classes):
            raise CheckpointError(
                f"{where} has a {kind} for its {network}; this converter reads {' and '.join(classes)}"
            )
        if kind is not None or (network not in index and f"{network}/config.json" in names):
            found.append(network)
    if not {"unet", "vae"} <= set(found) or not any(name.startswith("text_encoder") for name in found):
        raise CheckpointError(
            f"{where} is a {index.get('_class_name', 'model')} with {' and '.join(found) or 'none'} of the networks of "
            f"Stable Diffusion ({', '.join(COMPONENTS)})"
        )
    return found


def settings_files(where: str, networks: Collection[str], names: Collection[str]) -> list[str]:
    """The small files: configurations, lists of shards, tokenizers. Raises CheckpointError where one is missing."""
    wanted = [MODEL_INDEX, _SCHEDULER, *(f"{network}/config.json" for network in networks)]
    for network in networks:
        wanted += [f"{network}/{name}" for name in shard_indexes(_inside(network, names))]
        if network.startswith("text_encoder"):
            tokenizer = network.replace("text_encoder", "tokenizer")
            found = tokenizer_names(f"{where}/{tokenizer}", _inside(tokenizer, names))
            wanted += [f"{tokenizer}/{name}" for name in found]
    if missing := [name for name in wanted if name not in names]:
        raise CheckpointError(f"{where} lacks {', '.join(missing)}")
    return [*wanted, DEFAULTS] if DEFAULTS in names else wanted


def weights_of(
    where: str, networks: Collection[str], names: Collection[str], read_json: Callable[[str], dict[str, Any]]
) -> list[str]:
    """One set of safetensors files for each network, fp16 where there is one; ``read_json`` reads a list of shards.

    Raises CheckpointError where there are none, or only pickles.
    """
    return [
        f"{network}/{name}"
        for network in networks
        for name in choose_weights(
            f"{where}/{network}",
            _inside(network, names),
            lambda index, network=network: read_json(f"{network}/{index}"),  # type: ignore[misc]
        )
    ]


def network_folder(where: str, within: str | None, names: Collection[str]) -> str:
    """Where in a repository a network alone lies: at its top (""), else in the folder ``within`` of a checkpoint.

    Raises CheckpointError where it is in neither.
    """
    for folder in ("", within):
        if folder is not None and f"{folder}/config.json".removeprefix("/") in names:
            return folder
    inside = "" if within is None else f" or {within}/config.json"
    raise CheckpointError(f"{where} holds no network: it has no config.json{inside}")


def network_files(
    where: str, folder: str, names: Collection[str], read_json: Callable[[str], dict[str, Any]]
) -> tuple[list[str], list[str]]:
    """A network's small files and one set of its weights, fp16 where there is one; see `choose_weights`."""

    def whole(name: str) -> str:
        return f"{folder}/{name}".removeprefix("/")

    inside = _inside(folder, names) if folder else [name for name in names if "/" not in name]
    small = [whole("config.json"), *(whole(name) for name in shard_indexes(inside))]
    weights = choose_weights(f"{where}/{folder}".removesuffix("/"), inside, lambda index: read_json(whole(index)))
    return small, [whole(name) for name in weights]
