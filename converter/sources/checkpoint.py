"""A diffusers folder on disk as a source of weights. Pickle files are never read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from converter.errors import CheckpointError, quoted, shown
from converter.sources.component_kinds import COMPONENTS, CONTROLNET, TEXT_ENCODER, TEXT_ENCODER_2, TOKENIZERS
from converter.sources.config_tables import DEFAULTS as RECOMMENDED
from converter.sources.configs import read_config, read_json
from converter.sources.snapshot import folder_name
from converter.sources.tensors import Tensors
from converter.sources.tokenizer import read_tokenizer, tokenizer_names

#: File with the settings that a checkpoint's makers recommend.
DEFAULTS = "anemone-defaults.json"
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_STEMS = ("diffusion_pytorch_model", "model")
#: fp16 files come first, since they have half the bytes; converted weights are fp16 either way.
_VARIANTS = (".fp16", "")
_INDEX = "model_index.json"
#: The key of DEFAULTS that conversions do not read.
_PROMPTS = "prompts"


def pickle_refused(what: str) -> CheckpointError:
    """Return the error for ``what`` (names pickle files) that says why it is refused and what to do."""
    return CheckpointError(
        f"{what}: pickle files can run any code when read, so they are refused. Get the safetensors version, or, if "
        "you trust the file, save one: with diffusers' save_pretrained, or of an upscaler's .pth with "
        'safetensors.torch.save_file(torch.load("in.pth", weights_only=True)["params_ema"], "out.safetensors") '
        "(some have params in place of params_ema, or neither)."
    )


def _index_names(stem: str, variant: str) -> tuple[str, str]:
    # The second is an older naming; diffusers calls it legacy.
    return f"{stem}.safetensors.index{variant}.json", f"{stem}.safetensors{variant}.index.json"


def shard_indexes(names: Collection[str]) -> list[str]:
    """Return the files among a network folder's ``names`` that list shards."""
    indexes = {name for variant in _VARIANTS for stem in _STEMS for name in _index_names(stem, variant)}
    return sorted(indexes.intersection(names))


def choose_weights(where: str, names: Collection[str], read_index: Callable[[str], dict[str, Any]]) -> list[str]:
    """Return the one set of safetensors files to read among a network folder's ``names``: fp16 files if there are any.

    ``read_index`` returns the content of one of `shard_indexes`. Raises CheckpointError that begins with ``where`` if
    there are no safetensors (pickles are refused by name) or shards are missing.
    """
    for variant in _VARIANTS:
        for stem in _STEMS:
            for index in _index_names(stem, variant):
                if index in names:
                    weight_map = read_index(index).get("weight_map")
                    shards = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
                    if not shards:
                        raise CheckpointError(
                            f"{where}/{index} lists no shards; an object weight_map is expected there"
                        )
                    if missing := [name for name in shards if name not in names]:
                        raise CheckpointError(
                            f"{where}/{index} names files that are missing from its folder: {shown(missing)}"
                        )
                    return shards
            if f"{stem}{variant}.safetensors" in names:
                return [f"{stem}{variant}.safetensors"]
    if pickles := sorted(name for name in names if name.endswith(PICKLES)):
        raise pickle_refused(f"{where} has its weights only as {', '.join(pickles)}")
    raise CheckpointError(f"{where} has no safetensors weights ({' or '.join(s + '.safetensors' for s in _STEMS)})")


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files to read of a network's folder; raises CheckpointError if the folder has no weights."""
    names = choose_weights(str(folder), _names(folder), lambda name: read_json(folder / name))
    return [folder / name for name in names]


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_and_time(path: Path) -> str:
    """Return a file's size in bytes and modification time in ns."""
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


@dataclass(frozen=True)
class Checkpoint:
    """A Stable Diffusion checkpoint in the diffusers layout.

    prediction_type: replaces the prediction type of the scheduler's configuration.
    hub_name: owner/name, if the folder is a copy of a repository on the Hugging Face hub.
    """

    folder: Path
    prediction_type: str | None = None
    hub_name: str | None = None

    @staticmethod
    def open(path: Path, prediction_type: str | None = None, hub_name: str | None = None) -> Checkpoint:
        """Return the checkpoint at ``path``; raises CheckpointError if it is not one, or not safe to read."""
        if path.is_file() and path.suffix in PICKLES:
            raise pickle_refused(str(path))
        if not path.is_dir():
            raise CheckpointError(f"{path} is not a folder; give a diffusers checkpoint folder (with {_INDEX})")
        files = sorted(name for name in _names(path) if name.endswith(".safetensors"))
        if files and not (path / _INDEX).is_file():
            raise CheckpointError(
                f"{path} has no {_INDEX}, but {', '.join(files)}; to convert a whole checkpoint in one file, give the file itself"
            )
        read_json(path / _INDEX)
        return Checkpoint(path, prediction_type, hub_name)

    @property
    def name(self) -> str:
        """The model's name: its repository on the hub, or its folder."""
        return self.hub_name or folder_name(self.folder)

    @property
    def kind(self) -> str:
        """``hub``, or ``diffusers`` for a local folder."""
        return "hub" if self.hub_name else "diffusers"

    @cached_property
    def _second_in_first_place(self) -> bool:
        """Return whether the only text encoder is SDXL's second, saved in the first's folder (refiner 0.9 and 1.0)."""
        first = self.folder / TEXT_ENCODER.name / "config.json"
        if (self.folder / TEXT_ENCODER_2.name).is_dir() or not first.is_file():
            return False
        refiner = str(self.index.get("_class_name")).startswith("StableDiffusionXL")
        return refiner and read_json(first).get("architectures") == ["CLIPTextModelWithProjection"]

    def _place(self, part: str) -> Path:
        """Return the folder of a component or tokenizer."""
        if self._second_in_first_place:
            moved = {TEXT_ENCODER_2.name: TEXT_ENCODER.name, TEXT_ENCODER_2.tokenizer: TEXT_ENCODER.tokenizer}
            if part in moved.values():
                return self.folder / f"no_{part}"
            part = moved.get(part) or part
        return self.folder / part

    def has(self, component: str) -> bool:
        """Return whether the checkpoint has this network."""
        return (self._place(component) / "config.json").is_file()

    def config(self, component: str) -> dict[str, Any]:
        """Return a network's config.json, or the scheduler's scheduler_config.json."""
        if component != "scheduler":
            return read_json(self._place(component) / "config.json")
        config = read_json(self.folder / component / "scheduler_config.json")
        # diffusers takes the scheduler's class from model_index.json, not from the scheduler's own file.
        if isinstance(kind := self.part_classes.get(component), str):
            config = config | {"_class_name": kind}
        return config if self.prediction_type is None else config | {"prediction_type": self.prediction_type}

    def tensors(self, component: str) -> Tensors:
        """Return a network's weights as memory-mapped arrays."""
        return Tensors(weight_files(self._place(component)))

    @cached_property
    def index(self) -> dict[str, Any]:
        """The content of model_index.json."""
        return read_json(self.folder / _INDEX)

    @property
    def part_classes(self) -> dict[str, Any]:
        """Part of the pipeline -> its class in model_index.json; parts without a class are left out."""
        parts = {name: about for name, about in self.index.items() if isinstance(about, list) and len(about) == 2}
        return {name: kind for name, (library, kind) in parts.items() if library or kind}

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The settings that its makers recommend (``anemone-defaults.json``); empty without that file."""
        path = self.folder / DEFAULTS
        defaults = read_config(str(path), self._recommended, RECOMMENDED)
        if unknown := self._recommended.keys() - RECOMMENDED.keys():
            raise CheckpointError(
                f"{path} has {quoted(min(unknown))}, which is not known; accepted: {', '.join(RECOMMENDED)}"
            )
        return {name: value for name, value in defaults.items() if value is not None}

    @cached_property
    def _recommended(self) -> dict[str, Any]:
        path = self.folder / DEFAULTS
        return read_json(path) if os.path.lexists(path) else {}

    @cached_property
    def leftovers(self) -> tuple[str, ...]:
        """A sentence for each part of the pipeline that is not converted."""
        converted = (*(component.name for component in COMPONENTS), *TOKENIZERS, "scheduler", "feature_extractor")
        return tuple(
            f"{name} ({kind!s:.100}) is not converted with the checkpoint"
            for name, kind in self.part_classes.items()
            if name not in converted
        )

    @cached_property
    def controlnets(self) -> dict[str, Path]:
        """Name -> folder of each ControlNet in the folder: controlnet/NAME has a config.json."""
        configs = sorted((self.folder / CONTROLNET.name).glob("*/config.json"))
        return {config.parent.name: config.parent for config in configs}

    def tokenizer_files(self) -> dict[str, dict[str, bytes]]:
        """Return each of the checkpoint's tokenizers (tokenizer, tokenizer_2): file name -> content."""
        names = [name for name in TOKENIZERS if self._place(name).is_dir()]
        if not names:
            raise CheckpointError(f"{self.folder} has no tokenizer folder")
        return {name: read_tokenizer(self._place(name)) for name in names}

    def _files(self) -> list[Path]:
        """Return every file that a conversion reads, except `DEFAULTS`."""
        files = [self.folder / _INDEX, self.folder / "scheduler" / "scheduler_config.json"]
        for component in (c.name for c in COMPONENTS if self.has(c.name)):
            files += [self._place(component) / "config.json", *weight_files(self._place(component))]
        for folder in self.controlnets.values():
            files += [folder / "config.json", *weight_files(folder)]
        for folder in (self._place(name) for name in TOKENIZERS if self._place(name).is_dir()):
            files += [folder / name for name in tokenizer_names(str(folder), _names(folder))]
        return files

    def _digest(self, describe: Callable[[Path], str]) -> str:
        digest = hashlib.sha256()
        for path in self._files():
            digest.update(f"{path.relative_to(self.folder).as_posix()} {describe(path)}\n".encode())
        path, settings = self.folder / DEFAULTS, dict(self._recommended)
        if path.is_file():
            # Prompts change no package: a model converted before they were written is the same model.
            if settings.pop(_PROMPTS, None) is None:
                digest.update(f"{DEFAULTS} {describe(path)}\n".encode())
            elif settings:
                written = f"{json.dumps(settings)}\n".encode()
                digest.update(f"{DEFAULTS} {hashlib.sha256(written).hexdigest()}\n".encode())
        if self.prediction_type is not None:
            digest.update(f"prediction_type {self.prediction_type}\n".encode())
        return digest.hexdigest()

    @cached_property
    def sha256(self) -> str:
        """A hash of the names and contents of all that a conversion reads, and of the requested prediction type."""
        return self._digest(content_hash)

    @cached_property
    def stamp(self) -> str:
        """A hash of the files' names, sizes and modification times, and of the requested prediction type; reads no weights."""
        return self._digest(size_and_time)
